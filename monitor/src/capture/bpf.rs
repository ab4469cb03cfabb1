//! The commands of `bpf(2)` that the library lacks: links whose flags are chosen and whose programs
//! can be swapped, pins opened by their path, an array by its bytes, what is new among all links and
//! programs. Knows nothing of what they hold.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

const MAP_CREATE: libc::c_long = 0;
const MAP_LOOKUP_ELEM: libc::c_long = 1;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const OBJ_PIN: libc::c_long = 6;
const OBJ_GET: libc::c_long = 7;
const PROG_GET_NEXT_ID: libc::c_long = 11;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const LINK_CREATE: libc::c_long = 28;
const LINK_UPDATE: libc::c_long = 29;
const LINK_GET_FD_BY_ID: libc::c_long = 30;
const LINK_GET_NEXT_ID: libc::c_long = 31;

/// Before all programs of others, its own cgroup's children's included (`BPF_F_PREORDER`, 6.12 and
/// some of 6.1's successors; elsewhere `InvalidInput`).
pub(super) const PREORDER: u32 = 64;

/// A link of a program to a cgroup, as the kernel tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CgroupLink {
    pub(super) cgroup_id: u64,
    pub(super) attach_type: u32,
    pub(super) program_id: u32,
}

/// Attaches a program to a cgroup for as long as the link is open or pinned (since 5.7).
pub(super) fn link(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    opened(LINK_CREATE, [word(program), word(cgroup), attach_type, flags])
}

/// Puts another program into a link, in one moment (since 5.7).
pub(super) fn swap(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let (flags, any_program_before) = (0, 0);
    call(LINK_UPDATE, &mut [word(link), word(program), flags, any_program_before]).map(drop)
}

pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_string(path)?;
    call(OBJ_PIN, &mut PathAttr::of(&path, word(object))).map(drop)
}

/// Opens what is pinned at `path`.
pub(super) fn get(path: &Path) -> io::Result<OwnedFd> {
    let path = c_string(path)?;
    opened(OBJ_GET, PathAttr::of(&path, 0))
}

/// What a link is attached to; None where it is no cgroup's.
pub(super) fn cgroup_link(link: BorrowedFd<'_>) -> io::Result<Option<CgroupLink>> {
    const BPF_LINK_TYPE_CGROUP: u32 = 3;
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        _id: u32,
        program_id: u32,
        _reserved: u32,
        cgroup_id: u64,
        attach_type: u32,
        _rest: [u32; 5],
    }
    let mut info = Info::default();
    information(link, &mut info)?;
    let Info { kind, program_id, cgroup_id, attach_type, .. } = info;
    let link = CgroupLink { cgroup_id, attach_type, program_id };
    Ok((kind == BPF_LINK_TYPE_CGROUP).then_some(link))
}

/// The first link whose id is higher; None where there is none. The kernel gives higher and higher ones,
/// up to 2^31. Takes CAP_SYS_ADMIN, as all of these do.
pub(super) fn next_link(after: u32) -> io::Result<Option<u32>> {
    next_id(LINK_GET_NEXT_ID, after)
}

pub(super) fn next_program(after: u32) -> io::Result<Option<u32>> {
    next_id(PROG_GET_NEXT_ID, after)
}

/// Opens a link by its id: `NotFound` where it is gone, `WouldBlock` while it is made.
pub(super) fn link_by_id(id: u32) -> io::Result<OwnedFd> {
    opened(LINK_GET_FD_BY_ID, [id, 0, 0])
}

/// A loaded program, as the kernel tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LoadedProgram {
    /// `enum bpf_prog_type`
    pub(super) kind: u32,
    /// A digest of its instructions, the same wherever it is loaded.
    pub(super) tag: [u8; 8],
    /// Empty where it has none.
    pub(super) name: String,
}

/// What a program is; `NotFound` where it is gone.
pub(super) fn program(id: u32) -> io::Result<LoadedProgram> {
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        _id: u32,
        tag: [u8; 8],
        _until_name: [u64; 6],
        name: [u8; 16],
    }
    const { assert!(size_of::<Info>() == 80) };
    let program = opened(PROG_GET_FD_BY_ID, [id, 0, 0])?;
    let mut info = Info::default();
    information(program.as_fd(), &mut info)?;
    let Info { kind, tag, name, .. } = info;
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(LoadedProgram { kind, tag, name: String::from_utf8_lossy(name).into_owned() })
}

fn next_id(command: libc::c_long, after: u32) -> io::Result<Option<u32>> {
    let (next, flags) = (0, 0);
    let mut attr = [after, next, flags];
    match call(command, &mut attr) {
        Ok(_) => Ok(Some(attr[1])),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// An array of one value.
pub(super) struct Cell(OwnedFd);

impl Cell {
    const ARRAY: u32 = 2;
    /// So much of a stranger's value is read.
    const MOST: usize = 1 << 12;

    pub(super) fn create(name: &str, value: &[u8]) -> io::Result<Self> {
        #[repr(C)]
        struct CreateAttr {
            map_type: u32,
            key_size: u32,
            value_size: u32,
            max_entries: u32,
            _flags_and_so_on: [u32; 3],
            name: [u8; 16],
        }
        let mut attr = CreateAttr {
            map_type: Self::ARRAY,
            key_size: 4,
            value_size: size(value),
            max_entries: 1,
            _flags_and_so_on: [0; 3],
            name: [0; 16],
        };
        for (to, from) in attr.name.iter_mut().take(15).zip(name.bytes()) {
            *to = from;
        }
        let cell = Self(opened(MAP_CREATE, attr)?);
        cell.write(value)?;
        Ok(cell)
    }

    /// Opens a pinned one with its value; None where what is pinned is something else.
    pub(super) fn open(path: &Path) -> io::Result<Option<(Self, Vec<u8>)>> {
        #[repr(C)]
        #[derive(Default)]
        struct Info {
            map_type: u32,
            _id: u32,
            key_size: u32,
            value_size: u32,
            max_entries: u32,
            _rest: [u32; 15],
        }
        let cell = Self(get(path)?);
        let mut info = Info::default();
        // A program or a link has another information, which makes no such array.
        information(cell.0.as_fd(), &mut info)?;
        let size = info.value_size as usize;
        let fits = info.map_type == Self::ARRAY && info.key_size == 4 && info.max_entries == 1;
        if !fits || size > Self::MOST {
            return Ok(None);
        }
        // An array's value takes whole words of 8 bytes.
        let mut value = vec![0_u8; size.next_multiple_of(8)];
        let key = 0_u32;
        // SAFETY: the key and the value outlive the call; the value has the size that the map has.
        unsafe { call_unchecked(MAP_LOOKUP_ELEM, &mut ElementAttr::of(&cell, &key, &mut value))? };
        value.truncate(size);
        Ok(Some((cell, value)))
    }

    pub(super) fn write(&self, value: &[u8]) -> io::Result<()> {
        let mut value = value.to_vec();
        let key = 0_u32;
        // SAFETY: the key and the value outlive the call; the value has the size that the map has.
        unsafe { call_unchecked(MAP_UPDATE_ELEM, &mut ElementAttr::of(self, &key, &mut value)) }
            .map(drop)
    }

    pub(super) fn pin(&self, path: &Path) -> io::Result<()> {
        pin(self.0.as_fd(), path)
    }
}

#[repr(C)]
struct ElementAttr {
    map: u32,
    _reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl ElementAttr {
    fn of(cell: &Cell, key: &u32, value: &mut [u8]) -> Self {
        Self {
            map: word(cell.0.as_fd()),
            _reserved: 0,
            key: std::ptr::from_ref(key).addr() as u64,
            value: value.as_mut_ptr().addr() as u64,
            flags: 0,
        }
    }
}

#[repr(C)]
struct PathAttr {
    path: u64,
    object: u32,
    file_flags: u32,
}

impl PathAttr {
    fn of(path: &CString, object: u32) -> Self {
        Self { path: path.as_ptr().addr() as u64, object, file_flags: 0 }
    }
}

/// Asks for what the kernel tells of an object.
fn information<T>(object: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    #[repr(C)]
    struct InfoAttr {
        object: u32,
        size: u32,
        info: u64,
    }
    let mut attr = InfoAttr {
        object: word(object),
        size: u32::try_from(size_of::<T>()).unwrap_or(0),
        info: std::ptr::from_mut(info).addr() as u64,
    };
    call(OBJ_GET_INFO_BY_FD, &mut attr).map(drop)
}

fn opened<T>(command: libc::c_long, mut attr: T) -> io::Result<OwnedFd> {
    let fd = call(command, &mut attr)?;
    // SAFETY: a descriptor that the kernel has just made for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn call<T>(command: libc::c_long, attr: &mut T) -> io::Result<i32> {
    // SAFETY: what the attributes of this module's other commands point to (paths, information)
    // outlives the call and is as large as they say.
    unsafe { call_unchecked(command, attr) }
}

/// # Safety
///
/// What `attr` points to outlives the call, and is as large as the kernel takes it to be.
unsafe fn call_unchecked<T>(command: libc::c_long, attr: &mut T) -> io::Result<i32> {
    // SAFETY: the attribute outlives the call, which reads and writes no more than its size; the rest
    // is the caller's.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<T>()) };
    match i32::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

fn word(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn size(value: &[u8]) -> u32 {
    u32::try_from(value.len()).unwrap_or(0)
}

fn c_string(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}
