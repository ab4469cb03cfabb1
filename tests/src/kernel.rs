//! What the kernel holds on behalf of a process: programs, links and maps by their ids, which it
//! does not give out twice; programs that do nothing; and whether it lets anybody register a kprobe.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, c_long};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use aya::maps::{MapData, MapInfo};

/// Ids of loaded objects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    pub programs: BTreeSet<u32>,
    pub links: BTreeSet<u32>,
    pub maps: BTreeSet<u32>,
    /// What each of the maps takes of the kernel's memory, in bytes, by its id.
    memory: BTreeMap<u32, u64>,
}

impl Loaded {
    /// What the process holds open.
    #[track_caller]
    #[must_use]
    pub fn by(pid: u32) -> Self {
        let mut loaded = Self::default();
        let dir = format!("/proc/{pid}/fdinfo");
        let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("read {dir}: {error}"));
        for entry in entries.flatten() {
            // Closed meanwhile: then it is nothing that stays.
            let Ok(text) = fs::read_to_string(entry.path()) else { continue };
            for (key, ids) in [
                ("prog_id:", &mut loaded.programs),
                ("link_id:", &mut loaded.links),
                ("map_id:", &mut loaded.maps),
            ] {
                let value = text.lines().find_map(|line| line.strip_prefix(key));
                ids.extend(value.and_then(|id| id.trim().parse::<u32>().ok()));
            }
            let value =
                |key| text.lines().find_map(|line| line.strip_prefix(key))?.trim().parse().ok();
            if let (Some(id), Some(bytes)) = (value("map_id:"), value("memlock:")) {
                let id = u32::try_from(id).expect("an id");
                loaded.memory.insert(id, bytes);
            }
        }
        loaded
    }

    /// The map of this name.
    ///
    /// # Errors
    /// There is none, or it cannot be opened.
    pub fn map(&self, name: &str) -> Result<MapData, String> {
        let mut opened = self.maps.iter().filter_map(|id| MapData::from_id(*id).ok());
        let named = |it: &MapData| it.info().is_ok_and(|it| it.name() == name.as_bytes());
        opened.find(named).ok_or_else(|| format!("no map {name}"))
    }

    /// What all maps take of the kernel's memory.
    #[must_use]
    pub fn map_bytes(&self) -> u64 {
        self.memory.values().sum()
    }

    /// Those of them that the kernel still knows.
    #[must_use]
    pub fn remaining(&self) -> Self {
        let programs = aya::programs::loaded_programs().flatten().map(|it| it.id());
        let links = aya::programs::loaded_links().flatten().map(|it| it.id());
        let maps = aya::maps::loaded_maps().flatten().map(|it| it.id());
        let among = |ids: BTreeSet<u32>, mine: &BTreeSet<u32>| &ids & mine;
        let maps = among(maps.collect(), &self.maps);
        let memory = self.memory.iter().filter(|(id, _)| maps.contains(id));
        Self {
            programs: among(programs.collect(), &self.programs),
            links: among(links.collect(), &self.links),
            memory: memory.map(|(id, bytes)| (*id, *bytes)).collect(),
            maps,
        }
    }

    /// How many steps the verifier took for each program; fails where this kernel does not say.
    #[track_caller]
    #[must_use]
    pub fn steps(&self) -> Vec<u32> {
        let programs = aya::programs::loaded_programs().flatten();
        let mine = programs.filter(|it| self.programs.contains(&it.id()));
        mine.map(|it| it.verified_instruction_count().expect("said since 5.16")).collect()
    }

    /// Detaches the program of this name as anybody may who may load some.
    #[track_caller]
    pub fn detach(&self, name: &str) {
        self.try_detach(name).expect("its kind can be detached");
    }

    /// The same, where that may be refused.
    ///
    /// # Errors
    /// Its kind cannot be detached.
    #[track_caller]
    pub fn try_detach(&self, name: &str) -> io::Result<()> {
        const LINK_DETACH: c_long = 34;
        let (link, _program) = self.link_of(name);
        bpf(LINK_DETACH, &[word_of(&link), 0, 0, 0]).map(drop)
    }

    /// The link of the program of this name, by its id, and the program.
    #[track_caller]
    pub(crate) fn link_of(&self, name: &str) -> (OwnedFd, OwnedFd) {
        let mut programs = aya::programs::loaded_programs().flatten();
        let program = programs
            .find(|it| self.programs.contains(&it.id()) && it.name_as_str() == Some(name))
            .unwrap_or_else(|| panic!("{name} is not loaded"));
        let mut links = aya::programs::loaded_links().flatten();
        let link = links
            .find(|it| self.links.contains(&it.id()) && it.program_id() == program.id())
            .unwrap_or_else(|| panic!("{name} is not attached"));
        const PROG_GET_FD_BY_ID: c_long = 13;
        const LINK_GET_FD_BY_ID: c_long = 30;
        let opened = |command, id: u32| {
            let fd = bpf(command, &[id, 0, 0, 0]).expect("it is there");
            // SAFETY: a descriptor that the kernel just gave us.
            unsafe { OwnedFd::from_raw_fd(fd) }
        };
        (opened(LINK_GET_FD_BY_ID, link.id()), opened(PROG_GET_FD_BY_ID, program.id()))
    }

    /// Nothing where all is gone, else what is left.
    ///
    /// # Errors
    /// What is left.
    pub fn gone(&self) -> Result<(), String> {
        let left = self.remaining();
        if left == Self::default() { Ok(()) } else { Err(format!("still loaded: {left:?}")) }
    }
}

/// A program that lets through what it sees and does nothing else, attached until it is dropped.
#[derive(Debug)]
pub struct Empty {
    /// Held only so that what it did can be looked up.
    _program: OwnedFd,
    _link: OwnedFd,
}

impl Empty {
    /// Attaches one to a cgroup, at the hook that `enum bpf_prog_type` and `enum bpf_attach_type`
    /// name.
    ///
    /// # Errors
    /// Why the kernel refuses it.
    pub fn attach(cgroup: BorrowedFd<'_>, program_type: u32, at: u32) -> io::Result<Self> {
        /// The head of `union bpf_attr` for loading, as far as it is needed here.
        #[repr(C)]
        struct Load {
            program_type: u32,
            instruction_count: u32,
            instructions: u64,
            license: u64,
            until_expected: [u64; 5],
            device: u32,
            expected_attach_type: u32,
        }
        const { assert!(size_of::<Load>() == 72) };
        const PROG_LOAD: c_long = 5;
        const LINK_CREATE: c_long = 28;
        // `r0 = 1; exit`, as a little-endian machine lays it out.
        let instructions: [u64; 2] = [0x1_0000_00b7, 0x95];
        let load = Load {
            program_type,
            instruction_count: 2,
            instructions: instructions.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            until_expected: [0; 5],
            device: 0,
            expected_attach_type: at,
        };
        let program = bpf(PROG_LOAD, &load)?;
        // SAFETY: a descriptor that the kernel has just made for us alone.
        let program = unsafe { OwnedFd::from_raw_fd(program) };
        let word = |it: RawFd| u32::try_from(it).unwrap_or_default();
        let flags = 0;
        let link = [word(program.as_raw_fd()), word(cgroup.as_raw_fd()), at, flags];
        let link = bpf(LINK_CREATE, &link)?;
        // SAFETY: as above.
        let link = unsafe { OwnedFd::from_raw_fd(link) };
        Ok(Self { _program: program, _link: link })
    }
}

/// Calls `bpf(2)` with the head of an attribute; the kernel takes the rest for zero.
fn bpf<T>(command: c_long, attribute: &T) -> io::Result<RawFd> {
    // SAFETY: the attribute and what it points to outlive the call, which reads no more than its
    // size.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, &raw const *attribute, size_of_val(attribute))
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(RawFd::try_from(result).unwrap_or_default())
}

/// Pins an array of one value.
///
/// # Errors
/// The kernel refused.
pub fn pin_cell(path: &Path, value: &[u8]) -> io::Result<()> {
    const MAP_CREATE: c_long = 0;
    const OBJ_PIN: c_long = 6;
    let (array, key_bytes, one) = (2, 4, 1);
    let value_bytes = u32::try_from(value.len()).unwrap_or(0);
    let map = words(MAP_CREATE, &[array, key_bytes, value_bytes, one])?;
    // SAFETY: a descriptor that the kernel just gave us.
    let map = unsafe { OwnedFd::from_raw_fd(map) };
    with_path(OBJ_PIN, path, map.as_raw_fd().cast_unsigned())?;
    write_cell(path, value)
}

/// The value of a pinned array of one.
///
/// # Errors
/// There is none, or its size cannot be told.
pub fn read_cell(path: &Path) -> io::Result<Vec<u8>> {
    const MAP_LOOKUP_ELEM: c_long = 1;
    let info = MapInfo::from_pin(path).map_err(io::Error::other)?;
    let mut value = vec![0; (info.value_size() as usize).next_multiple_of(8)];
    on_cell(MAP_LOOKUP_ELEM, path, &mut value)?;
    value.truncate(info.value_size() as usize);
    Ok(value)
}

/// Writes the value of a pinned array of one.
///
/// # Errors
/// There is none.
pub fn write_cell(path: &Path, value: &[u8]) -> io::Result<()> {
    const MAP_UPDATE_ELEM: c_long = 2;
    on_cell(MAP_UPDATE_ELEM, path, &mut value.to_vec())
}

fn on_cell(command: c_long, path: &Path, value: &mut [u8]) -> io::Result<()> {
    const OBJ_GET: c_long = 7;
    let map = with_path(OBJ_GET, path, 0)?;
    // SAFETY: a descriptor that the kernel just gave us.
    let map = unsafe { OwnedFd::from_raw_fd(map) };
    let key = 0_u32;
    let (low, high) = halves((&raw const key).addr());
    let (value_low, value_high) = halves(value.as_mut_ptr().addr());
    let map = map.as_raw_fd().cast_unsigned();
    words(command, &[map, 0, low, high, value_low, value_high, 0, 0]).map(drop)
}

fn with_path(command: c_long, path: &Path, object: u32) -> io::Result<RawFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let (low, high) = halves(path.as_ptr().addr());
    words(command, &[low, high, object, 0])
}

/// An address as the two words that it is in an attribute.
pub(crate) const fn halves(address: usize) -> (u32, u32) {
    let address = address as u64;
    ((address & 0xffff_ffff) as u32, (address >> 32) as u32)
}

/// Calls `bpf(2)` with an attribute of these words.
pub(crate) fn words(command: c_long, attribute: &[u32]) -> io::Result<RawFd> {
    // SAFETY: the attribute outlives the call, which reads no more than its size, and so does what
    // its callers here point to, in the size that the map has.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, attribute.as_ptr(), size_of_val(attribute))
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(RawFd::try_from(result).unwrap_or_default())
}

/// Registers a kprobe on a function of the kernel, by both ways that user space has, and removes it.
///
/// # Errors
/// Why neither way is open.
pub fn register_kprobe(function: &str) -> io::Result<()> {
    by_perf_event(function).or_else(|error| {
        by_tracefs(function).map_err(|other| {
            io::Error::new(error.kind(), format!("perf_event_open: {error}; tracefs: {other}"))
        })
    })
}

fn by_tracefs(function: &str) -> io::Result<()> {
    let events = "/sys/kernel/tracing/kprobe_events";
    fs::write(events, format!("p:edgewatch_test {function}"))?;
    fs::write(events, "-:edgewatch_test")
}

fn by_perf_event(function: &str) -> io::Result<()> {
    /// The head of `struct perf_event_attr` as far as a kprobe needs it, the rest left at zero:
    /// `PERF_ATTR_SIZE_VER1`, the first with `config2`.
    #[repr(C)]
    struct Attributes {
        kind: u32,
        size: u32,
        until_breakpoint: [u64; 6],
        function: u64,
        offset: u64,
    }
    const { assert!(size_of::<Attributes>() == 72) };
    let kind = fs::read_to_string("/sys/bus/event_source/devices/kprobe/type")?;
    let function = CString::new(function)?;
    let attributes = Attributes {
        kind: kind.trim().parse().map_err(|_not_a_number| io::ErrorKind::InvalidData)?,
        size: 72,
        until_breakpoint: [0; 6],
        function: function.as_ptr() as u64,
        offset: 0,
    };
    let (any_process, this_cpu, no_group, flags) = (-1, 0, -1, 0);
    // SAFETY: the kernel reads `size` bytes of the attributes and the name they point to, both of
    // which outlive the call.
    let event = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attributes,
            any_process,
            this_cpu,
            no_group,
            flags,
        )
    };
    let event = i32::try_from(event).unwrap_or(-1);
    if event < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that the kernel has just made for us alone.
    drop(unsafe { OwnedFd::from_raw_fd(event) });
    Ok(())
}

/// How many programs are attached to a cgroup itself, at a hook as the kernel numbers it.
///
/// # Errors
/// There is no such cgroup, or no such hook.
pub fn attached(cgroup: &Path, hook: u32) -> io::Result<u32> {
    const PROG_QUERY: c_long = 16;
    let cgroup = fs::File::open(cgroup)?;
    let cgroup = u32::try_from(cgroup.as_raw_fd()).map(|fd| (fd, cgroup));
    let (fd, _open) = cgroup.map_err(|_negative| io::ErrorKind::InvalidInput)?;
    // The cgroup, the hook, two kinds of flags, the address of a list, its length, a filler.
    let mut attribute = [fd, hook, 0, 0, 0, 0, 0, 0];
    // SAFETY: the attribute outlives the call, which reads and writes no more than its size, and asks
    // for a list of no length.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, PROG_QUERY, attribute.as_mut_ptr(), size_of_val(&attribute))
    };
    let error = io::Error::last_os_error();
    if result < 0 && error.raw_os_error() != Some(libc::ENOSPC) {
        return Err(error);
    }
    Ok(attribute[6])
}

/// Has what a packet socket sends pass by the queues of its interface.
///
/// # Errors
/// The kernel refused.
pub fn bypass_queues(socket: &OwnedFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    const SIZE: libc::socklen_t = 4;
    const { assert!(size_of::<libc::c_int>() == SIZE as usize) };
    // SAFETY: the option is a number of the size that is said.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_QDISC_BYPASS,
            (&raw const on).cast(),
            SIZE,
        )
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends a frame of a protocol that nobody speaks by the loopback interface.
///
/// # Errors
/// The kernel refused.
pub fn send_frame(socket: &OwnedFd) -> io::Result<()> {
    const SIZE: libc::socklen_t = 20;
    const { assert!(size_of::<libc::sockaddr_ll>() == SIZE as usize) };
    const NOBODYS: u16 = 0x88b5;
    let to = libc::sockaddr_ll {
        sll_family: libc::c_ushort::try_from(libc::AF_PACKET).unwrap_or_default(),
        sll_protocol: NOBODYS.to_be(),
        // Loopback is the first of every namespace.
        sll_ifindex: 1,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0; 8],
    };
    let mut frame = [0_u8; 60];
    frame[12..14].copy_from_slice(&NOBODYS.to_be_bytes());
    // SAFETY: the frame and the address are of the sizes that are said, and outlive the call.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const to).cast(),
            SIZE,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

pub(crate) fn word_of(file: &impl AsRawFd) -> u32 {
    file.as_raw_fd().cast_unsigned()
}
