//! Names of systemd units without what changes from run to run, and what a scope's name says about
//! the container in it. Text only: whether the place can be believed is the caller's to judge.

/// The units that have a cgroup; slices are told apart by [`is_slice`].
const KINDS: [&str; 5] = ["service", "scope", "socket", "mount", "swap"];

pub(super) fn is_slice(name: &str) -> bool {
    name.strip_suffix(".slice").is_some_and(|stem| !stem.is_empty())
}

pub(super) fn is_unit(name: &str) -> bool {
    split(name).is_some()
}

/// The unit's name, decoded, without what changes from run to run: the parts that `systemd-run`,
/// sockets and the buses number, and the ids and pids that end a scope's name. A template's
/// instance stays: `getty@tty1.service` is a unit of its own.
pub(super) fn stable(name: &str) -> String {
    let Some((stem, kind)) = split(name) else {
        return decode(name);
    };
    let stem = if is_transient(stem) {
        "run".to_owned()
    } else if kind == "scope" {
        scope_stem(stem)
    } else {
        service_stem(stem)
    };
    format!("{stem}.{kind}")
}

/// The application behind a unit of a user's own manager: its id by the desktop's naming rules
/// (`app[-LAUNCHER]-ID-RANDOM.scope`, `app[-LAUNCHER]-ID@RANDOM.service`), else the unit.
pub(super) fn application(name: &str) -> String {
    let Some((stem, kind)) = split(name) else {
        return decode(cut_volatile(name));
    };
    if let Some(bus_name) = bus_activated(stem) {
        return decode(bus_name);
    }
    let Some(app) = stem.strip_prefix("app-") else {
        return stable(name);
    };
    let app = if kind == "scope" { cut_volatile(app) } else { before(app, '@') };
    // The id's own dashes are escaped, so what precedes the last dash is the launcher.
    let id = app.rsplit_once('-').map_or(app, |(_launcher, id)| id);
    if id.is_empty() { stable(name) } else { decode(id) }
}

/// Whether it is a login session's scope.
pub(super) fn is_session(name: &str) -> bool {
    name.starts_with("session-") && name.ends_with(".scope")
}

/// What a runtime put into the name of a container's cgroup: `docker-<id>.scope`, `crio-<id>`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Contained<'name> {
    /// What precedes the id, without its dash: `docker`, `libpod`, `crio-conmon`; may be empty.
    pub(super) prefix: &'name str,
    pub(super) id: &'name str,
}

impl Contained<'_> {
    /// Whether the cgroup holds the container's monitor on the host, not the container.
    pub(super) fn is_monitor(&self) -> bool {
        self.prefix.ends_with("conmon")
    }
}

pub(super) fn contained(name: &str) -> Option<Contained<'_>> {
    let stem = name.strip_suffix(".scope").unwrap_or(name);
    let (prefix, id) = match stem.rfind(['-', ':']) {
        Some(at) => (&stem[..at], &stem[at + 1..]),
        None => ("", stem),
    };
    is_container_id(id).then_some(Contained { prefix, id })
}

/// Docker, containerd's CRI, CRI-O and Podman all use 32 random bytes.
pub(super) fn is_container_id(text: &str) -> bool {
    text.len() == 64 && is_lower_hex(text)
}

pub(super) fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| {
            if matches!(at, 8 | 13 | 18 | 23) {
                byte == b'-'
            } else {
                byte.is_ascii_digit() || matches!(byte, b'a'..=b'f')
            }
        })
}

pub(super) fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f'))
}

/// Undoes systemd's `\xNN`. A slash stays escaped: it would read as another level.
pub(super) fn decode(text: &str) -> String {
    if !text.contains("\\x") {
        return text.to_owned();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = after
            .strip_prefix(b"x")
            .and_then(|digits| std::str::from_utf8(digits.get(..2)?).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escaped {
            Some(decoded) if byte == b'\\' && decoded != b'/' => {
                bytes.push(decoded);
                rest = &after[3..];
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

fn split(name: &str) -> Option<(&str, &str)> {
    // systemd puts a `_` before a unit whose name would clash with a file of the kernel's.
    let name = name.strip_prefix('_').unwrap_or(name);
    let (stem, kind) = name.rsplit_once('.')?;
    (!stem.is_empty() && KINDS.contains(&kind)).then_some((stem, kind))
}

/// What `systemd-run` makes up: `run-r<hex>`, `run-u<number>`, `run-p<pid>-i<number>`.
fn is_transient(stem: &str) -> bool {
    let Some(made_up) = stem.strip_prefix("run-") else {
        return false;
    };
    let numbered = |text: &str, letter| text.strip_prefix(letter).is_some_and(is_number);
    match made_up.split_once('-') {
        Some((pid, id)) => numbered(pid, 'p') && numbered(id, 'i'),
        None => {
            numbered(made_up, 'u')
                || made_up.strip_prefix('r').is_some_and(|hex| hex.len() == 32 && is_lower_hex(hex))
        }
    }
}

fn service_stem(stem: &str) -> String {
    if let Some(bus_name) = bus_activated(stem) {
        return format!("dbus-{}", decode(bus_name));
    }
    // Podman runs a container's health checks in units named by the container's id.
    if is_container_id(before(stem, '-')) {
        return "podman-healthcheck".to_owned();
    }
    match stem.split_once('@') {
        Some((template, instance)) if is_connection(instance) => format!("{}@", decode(template)),
        _ => decode(stem),
    }
}

fn scope_stem(stem: &str) -> String {
    // libvirt numbers its machines anew at every start: machine-qemu-NUMBER-NAME.
    let decoded = decode(stem);
    for driver in ["machine-qemu-", "machine-lxc-"] {
        if let Some((number, name)) =
            decoded.strip_prefix(driver).and_then(|machine| machine.split_once('-'))
            && is_number(number)
        {
            return format!("{driver}{name}");
        }
    }
    decode(cut_volatile(stem))
}

/// `dbus-:1.2-NAME@0`: started by a bus for one caller; the name alone is stable.
fn bus_activated(stem: &str) -> Option<&str> {
    let (_caller, name) = stem.strip_prefix("dbus-:")?.split_once('-')?;
    let name = before(name, '@');
    (!name.is_empty()).then_some(name)
}

/// Whether a template's instance is one accepted connection: `NUMBER-LOCAL:PORT-REMOTE:PORT`,
/// `NUMBER-PID-UID`, with a cookie after the number in newer versions.
fn is_connection(instance: &str) -> bool {
    let Some((number, ends)) = instance.split_once('-') else {
        return false;
    };
    let address = |byte: u8| byte.is_ascii_hexdigit() || b".:-_%".contains(&byte);
    let count = |byte: u8| byte.is_ascii_digit() || b"-_".contains(&byte);
    is_number(number)
        && (ends.contains(':') && ends.bytes().all(address)
            || ends.contains('-') && ends.bytes().all(count)
            || ends.ends_with("unknown"))
}

/// Cuts the ids, pids and random parts off the end; never the whole.
fn cut_volatile(stem: &str) -> &str {
    let mut kept = stem;
    loop {
        let uuid = kept.len().checked_sub(37).and_then(|at| {
            let tail = kept.get(at..)?.strip_prefix('-')?;
            is_uuid(tail).then(|| &kept[..at])
        });
        let token = || {
            let (before, token) = kept.rsplit_once('-')?;
            is_volatile(token).then_some(before)
        };
        match uuid.or_else(token) {
            Some(shorter) if !shorter.is_empty() => kept = shorter,
            _ => return kept,
        }
    }
}

fn is_volatile(token: &str) -> bool {
    let has_digit = token.bytes().any(|byte| byte.is_ascii_digit());
    let random = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_lowercase();
    is_number(token)
        || (has_digit && token.len() >= 8 && is_lower_hex(token))
        // BuildKit's ids.
        || (has_digit && token.len() == 25 && token.bytes().all(random))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn before(text: &str, mark: char) -> &str {
    text.split_once(mark).map_or(text, |(head, _tail)| head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_lose_what_changes_from_run_to_run() {
        for (unit, expected) in [
            ("nginx.service", "nginx.service"),
            ("getty@tty1.service", "getty@tty1.service"),
            ("postgresql@15-main.service", "postgresql@15-main.service"),
            ("wg-quick@wg0.service", "wg-quick@wg0.service"),
            ("sshd@3-192.0.2.1:22-198.51.100.7:5123.service", "sshd@.service"),
            ("sshd@12-2001:db8::1:22-fe80::2:5123.service", "sshd@.service"),
            ("sshd@12-771-192.0.2.1:22-198.51.100.7:5123.service", "sshd@.service"),
            ("varlink@1-991-1000.service", "varlink@.service"),
            ("varlink@1-4102-991_88-1000.service", "varlink@.service"),
            ("varlink@4-unknown.service", "varlink@.service"),
            ("run-u12.service", "run.service"),
            ("run-p991-i1204.service", "run.service"),
            ("run-r0123456789abcdef0123456789abcdef.scope", "run.scope"),
            ("run-rsync.service", "run-rsync.service"),
            ("run-user.mount", "run-user.mount"),
            ("tmux-spawn-2f9d1f9e-6d0d-4ad4-a0b1-5a1f0a8d9c11.scope", "tmux-spawn.scope"),
            ("snap.lxd.daemon.service", "snap.lxd.daemon.service"),
            ("foo-4711.scope", "foo.scope"),
            ("100.scope", "100.scope"),
            ("-7.scope", "-7.scope"),
            ("machine-qemu\\x2d3\\x2dbuild\\x2dhost.scope", "machine-qemu-build-host.scope"),
            ("machine-web.scope", "machine-web.scope"),
            ("foo\\x2dbar.service", "foo-bar.service"),
            ("dev-disk\\x2fby.swap", "dev-disk\\x2fby.swap"),
            ("caf\\xc3\\xa9.service", "café.service"),
            ("bad\\xc3.service", "bad\\xc3.service"),
            ("_cgroup.service", "cgroup.service"),
            (
                "dbus-:1.1-org.freedesktop.problems@0.service",
                "dbus-org.freedesktop.problems.service",
            ),
            ("buildkit-0a1b2c3d4e5f6g7h8i9j0k1l2.scope", "buildkit.scope"),
        ] {
            assert_eq!(stable(unit), expected, "{unit}");
        }
        let check = format!("{}-1f0a.service", "ab".repeat(32));
        assert_eq!(stable(&check), "podman-healthcheck.service");
    }

    #[test]
    fn applications_are_named_by_their_id() {
        for (unit, expected) in [
            ("app-firefox-1234.scope", "firefox"),
            ("app-gnome-org.mozilla.firefox-2345.scope", "org.mozilla.firefox"),
            ("app-flatpak-org.signal.Signal-3456.scope", "org.signal.Signal"),
            ("app-gnome-visual\\x2dstudio\\x2dcode-99.scope", "visual-studio-code"),
            ("app-org.kde.konsole-0b4c5d6e7f8091a2b3c4d5e6f7081920.scope", "org.kde.konsole"),
            ("app-foo@8d3f1c.service", "foo"),
            ("app-firefox@autostart.service", "firefox"),
            ("app-gnome-foo.scope", "foo"),
            ("dbus-:1.2-org.foo@0.service", "org.foo"),
            ("syncthing.service", "syncthing.service"),
            ("backup@home.service", "backup@home.service"),
            (
                "snap.firefox.firefox-2f9d1f9e-6d0d-4ad4-a0b1-5a1f0a8d9c11.scope",
                "snap.firefox.firefox.scope",
            ),
            ("app-.scope", "app-.scope"),
        ] {
            assert_eq!(application(unit), expected, "{unit}");
        }
    }
}
