//! What is noted of a process: what it runs, who started it, and whether a shell that a service
//! started stands behind it. The kernel notes it at fork and exec, the agent in the same way for
//! processes older than itself.

use zerocopy::{Immutable, IntoBytes, KnownLayout, TryFromBytes};

/// Value of `PROCESSES`, keyed by the process (thread-group) id (`u32`).
#[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Lineage {
    /// What it runs; 0 where unknown. Another one under a shell of a service than without.
    pub executable_id: u64,
    /// The executable id of the shell that a process of this cgroup started and that this one
    /// comes from or is; 0 where there is none. Valid while the process stays in the cgroup.
    pub shell_id: u64,
    /// The cgroup in which what it runs was executed, be it by an ancestor; 0 where unknown.
    pub executed_in: u64,
    /// The same of its parent, when it was forked.
    pub parent_executed_in: u64,
    /// When it was forked. A process is no younger than its children: what is was given the id of
    /// one that is gone.
    pub born_ns: u64,
    pub parent: u32,
    /// [`Lineage::SHELL`] and [`Lineage::PARENT_SHELL`].
    pub flags: u32,
}
const _: () = assert!(size_of::<Lineage>() == 48);

/// What a process starts to run.
#[derive(Clone, Copy)]
pub struct Execution {
    /// Of the path alone.
    pub executable_id: u64,
    /// Where the process is; 0 where unknown.
    pub cgroup_id: u64,
    /// 1 where its name is a shell's, see [`is_shell`].
    pub shell: u32,
    /// 1 where its path leads through the process itself: `/dev/fd/3`, `/proc/7/exe`.
    pub itself: u32,
}

impl Lineage {
    /// What it runs is a shell by its name.
    pub const SHELL: u32 = 1;
    /// What its parent ran when it was forked was.
    pub const PARENT_SHELL: u32 = 2;

    /// Nothing is known.
    pub const UNKNOWN: Self = Self {
        executable_id: 0,
        shell_id: 0,
        executed_in: 0,
        parent_executed_in: 0,
        born_ns: 0,
        parent: 0,
        flags: 0,
    };

    /// A child of the process `parent`, which is `self`.
    #[inline(always)]
    #[must_use]
    pub const fn forks(&self, parent: u32, born_ns: u64) -> Self {
        let shell = self.flags & Self::SHELL;
        Self {
            parent_executed_in: self.executed_in,
            born_ns,
            parent,
            flags: shell | (shell * Self::PARENT_SHELL),
            ..*self
        }
    }

    /// The service's shell that what it runs was started under; 0 for none, and for a shell.
    #[inline(always)]
    #[must_use]
    pub const fn under(&self) -> u64 {
        if self.flags & Self::SHELL == 0 { self.shell_id } else { 0 }
    }

    /// The process starts to run something else.
    ///
    /// A shell is a service's where the service started it: the process was forked by something that
    /// was itself executed in this cgroup. So the shell that a runtime or systemd starts a service
    /// with is none, whether they move the child here before it executes or before it forks. What a
    /// shell starts, directly or by way of another program (`env bash`), changes nothing.
    #[inline(always)]
    pub const fn executes(&mut self, it: &Execution) {
        let at_home = is_same(self.executed_in, it.cgroup_id);
        let after_shell = self.flags & (Self::SHELL | Self::PARENT_SHELL) != 0;
        self.flags = (self.flags & Self::PARENT_SHELL) | (it.shell * Self::SHELL);
        self.executable_id = it.executable_id;
        if it.shell == 0 {
            if !at_home {
                self.shell_id = 0;
            }
            if self.shell_id != 0 {
                self.executable_id = under_shell(it.executable_id, self.shell_id);
            }
        } else if !at_home || !after_shell {
            let of_service = is_same(self.parent_executed_in, it.cgroup_id);
            self.shell_id = if of_service { it.executable_id } else { 0 };
        }
        // What runs itself once more, as container runtimes do, has not become the service's.
        if it.itself == 0 || self.executed_in == 0 {
            self.executed_in = it.cgroup_id;
        }
    }
}

/// Whether two cgroups are one: two that are not known are not.
#[inline(always)]
const fn is_same(one: u64, other: u64) -> bool {
    one != 0 && one == other
}

/// The identity of an executable that a service's shell started. Never 0.
#[inline(always)]
#[must_use]
pub const fn under_shell(executable_id: u64, shell_id: u64) -> u64 {
    match executable_id ^ shell_id.rotate_left(32) {
        0 => 1,
        id => id,
    }
}

/// Bytes of a path's end that tell a shell.
pub const SHELL_BYTES: usize = 8;

/// Whether a path that ends in these bytes names a shell.
#[inline(always)]
#[must_use]
pub const fn is_shell(end: [u8; SHELL_BYTES]) -> bool {
    let end = u64::from_le_bytes(end);
    ends_in(end, *b"/sh")
        || ends_in(end, *b"/bash")
        || ends_in(end, *b"/dash")
        || ends_in(end, *b"/ash")
        || ends_in(end, *b"/zsh")
        || ends_in(end, *b"/ksh")
        || ends_in(end, *b"/mksh")
        || ends_in(end, *b"/fish")
        || ends_in(end, *b"/csh")
        || ends_in(end, *b"/tcsh")
        || ends_in(end, *b"/busybox")
}

#[inline(always)]
const fn ends_in<const N: usize>(end: u64, name: [u8; N]) -> bool {
    let mut word = 0_u64;
    let mut index = N;
    while index > 0 {
        index -= 1;
        word = word << 8 | name[index] as u64;
    }
    end >> (64 - 8 * N) == word
}

/// The last bytes of a path, NULs before it where it is shorter.
#[must_use]
pub fn end_of(path: &[u8]) -> [u8; SHELL_BYTES] {
    let mut end = [0; SHELL_BYTES];
    let take = path.len().min(SHELL_BYTES);
    end[SHELL_BYTES - take..].copy_from_slice(&path[path.len() - take..]);
    end
}

#[cfg(test)]
mod tests {
    use super::{Execution, Lineage, end_of, is_shell};

    const HERE: u64 = 7;
    const ELSEWHERE: u64 = 8;
    const NGINX: u64 = 100;
    const SH: u64 = 200;
    const PYTHON: u64 = 300;
    const ENV: u64 = 400;

    fn fork(parent: &Lineage) -> Lineage {
        parent.forks(1, 0)
    }

    fn exec(lineage: &mut Lineage, executable_id: u64, cgroup_id: u64) {
        let shell = u32::from(executable_id == SH);
        lineage.executes(&Execution { executable_id, cgroup_id, shell, itself: 0 });
    }

    /// What starts services, systemd or a container runtime.
    fn starter() -> Lineage {
        Lineage { executed_in: ELSEWHERE, ..Lineage::UNKNOWN }
    }

    /// The main process of a service.
    fn service() -> Lineage {
        let mut main = fork(&starter());
        exec(&mut main, NGINX, HERE);
        assert_eq!((main.executable_id, main.shell_id), (NGINX, 0));
        main
    }

    #[test]
    fn shells_are_told_by_their_whole_name() {
        for path in ["/bin/sh", "/usr/bin/bash", "/bin/busybox", "./dash", "/opt/x/fish", "/tcsh"] {
            assert!(is_shell(end_of(path.as_bytes())), "{path}");
        }
        for path in
            ["/bin/ssh", "sh", "/bin/shx", "/bin/sh/", "", "/", "/sbin/nologin", "/xbusybox"]
        {
            assert!(!is_shell(end_of(path.as_bytes())), "{path}");
        }
    }

    #[test]
    fn what_a_services_shell_starts_is_another_executable() {
        let main = service();
        let mut child = fork(&main);
        exec(&mut child, SH, HERE);
        assert_eq!((child.executable_id, child.shell_id), (SH, SH));
        // Forked by the shell, or executed in its place.
        for mut python in [fork(&child), child] {
            exec(&mut python, PYTHON, HERE);
            assert_ne!(python.executable_id, PYTHON);
            assert_eq!(python.shell_id, SH);
            // And what that starts.
            let mut other = fork(&python);
            exec(&mut other, NGINX, HERE);
            assert_ne!(other.executable_id, NGINX);
        }
        let mut direct = fork(&main);
        exec(&mut direct, PYTHON, HERE);
        assert_eq!((direct.executable_id, direct.shell_id), (PYTHON, 0));
    }

    #[test]
    fn a_script_that_becomes_a_shell_is_started_by_whom_it_was() {
        // `#!/usr/bin/env bash`: two executions in one process.
        let mut of_service = fork(&service());
        exec(&mut of_service, ENV, HERE);
        exec(&mut of_service, SH, HERE);
        assert_eq!(of_service.shell_id, SH);
        let mut entry = fork(&starter());
        exec(&mut entry, ENV, HERE);
        exec(&mut entry, SH, HERE);
        assert_eq!(entry.shell_id, 0);
        let mut of_entry = fork(&entry);
        exec(&mut of_entry, ENV, HERE);
        exec(&mut of_entry, SH, HERE);
        assert_eq!(of_entry.shell_id, 0);
    }

    #[test]
    fn the_shell_a_service_begins_with_is_not_its_own() {
        // Moved here, then executed.
        let mut first = fork(&starter());
        exec(&mut first, SH, HERE);
        // Moved here, forked, then executed: the stages of a container runtime.
        let mut second = fork(&fork(&starter()));
        exec(&mut second, SH, HERE);
        // Executed here by systemd's executor, which was itself executed here.
        let mut third = fork(&starter());
        exec(&mut third, ENV, HERE);
        exec(&mut third, SH, HERE);
        for shell in [first, second, third] {
            assert_eq!(shell.shell_id, 0);
            let mut inner = fork(&shell);
            exec(&mut inner, SH, HERE);
            for mut python in [shell, fork(&shell), inner] {
                exec(&mut python, PYTHON, HERE);
                assert_eq!((python.executable_id, python.shell_id), (PYTHON, 0));
                let mut own = fork(&python);
                exec(&mut own, SH, HERE);
                assert_eq!(own.shell_id, SH, "the service's own");
            }
        }
    }

    #[test]
    fn a_runtime_that_executes_itself_once_more_stays_foreign() {
        let again = Execution { executable_id: 5, cgroup_id: HERE, shell: 0, itself: 1 };
        let mut stage = fork(&starter());
        stage.executes(&again);
        let mut entry = fork(&stage);
        exec(&mut entry, SH, HERE);
        assert_eq!(entry.shell_id, 0);
        // What a service runs from memory is still the service's.
        let mut payload = fork(&service());
        payload.executes(&again);
        let mut shell = fork(&payload);
        exec(&mut shell, SH, HERE);
        assert_eq!(shell.shell_id, SH);
    }

    #[test]
    fn nobody_is_at_home_in_a_cgroup_that_is_not_known() {
        const UNKNOWN: u64 = 0;
        let mut main = fork(&Lineage::UNKNOWN);
        exec(&mut main, NGINX, UNKNOWN);
        let mut shell = fork(&main);
        exec(&mut shell, SH, UNKNOWN);
        let mut python = fork(&shell);
        exec(&mut python, PYTHON, UNKNOWN);
        assert_eq!((shell.shell_id, python.executable_id, python.shell_id), (0, PYTHON, 0));
    }

    #[test]
    fn a_mark_does_not_leave_its_cgroup() {
        let mut shell = fork(&service());
        exec(&mut shell, SH, HERE);
        let mut moved = fork(&shell);
        exec(&mut moved, PYTHON, ELSEWHERE);
        assert_eq!((moved.executable_id, moved.shell_id), (PYTHON, 0));
        let mut moved = fork(&shell);
        exec(&mut moved, SH, ELSEWHERE);
        assert_eq!(moved.shell_id, 0);
    }
}
