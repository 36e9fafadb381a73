//! What this machine must offer, whatever is mounted.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::unistd::{Uid, User};

use crate::{api::Check, env::Env, paths, program, text::shell_word};

/// Where programs are looked for, as the daemon does.
const PROGRAM_FOLDERS: [&str; 5] = ["/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/sbin"];

/// With fewer inotify instances than this a user with some programs may run out of them.
const INOTIFY_INSTANCES_MIN: u64 = 64;

/// The same for watched files.
const INOTIFY_WATCHES_MIN: u64 = 1024;

pub(super) fn checks(env: &Env) -> Vec<Check> {
    let mut checks = vec![versions(env), fuse(env), run_folder(env), state_root(env)];
    checks.extend(service(env));
    checks.extend(inotify());
    checks
}

fn versions(env: &Env) -> Check {
    let own = env!("CARGO_PKG_VERSION");
    match program::version(env) {
        Ok(version) if version == own => {
            Check::ok("programs", format!("mountctl and mountd {own}"))
        }
        Ok(version) => Check::warn("programs", format!("mountctl {own}, mountd {version}"))
            .why("only programs of one release are tested together")
            .fix("install both from the same release"),
        Err(why) => Check::fail("programs", format!("mountctl {own}, and no mountd"))
            .why(why)
            .fix("install mountd beside mountctl"),
    }
}

fn fuse(env: &Env) -> Check {
    let device = Path::new("/dev/fuse");
    if cfg!(not(target_os = "linux")) {
        return Check::skip("fuse", "this version mounts on Linux");
    }
    match fs::OpenOptions::new().read(true).write(true).open(device) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Check::fail("fuse", "/dev/fuse does not exist")
                .why("the kernel module is not loaded, or the container was not given the device")
                .fix("modprobe fuse")
                .fix("in a container: --device /dev/fuse --cap-add SYS_ADMIN");
        }
        Err(error) => {
            let mode = fs::metadata(device).map_or(0, |metadata| metadata.mode() & 0o777);
            return Check::fail("fuse", format!("/dev/fuse cannot be opened: {error}"))
                .why(format!("its mode is {mode:o}, and this user is {}", env.uid))
                .fix("sudo chmod 666 /dev/fuse");
        }
    }
    if env.uid == 0 {
        return Check::ok("fuse", "/dev/fuse can be opened; root mounts by itself");
    }
    let helper = PROGRAM_FOLDERS.iter().map(|folder| Path::new(folder).join("fusermount3"));
    match helper.map(|path| (fs::metadata(&path), path)).find(|(found, _)| found.is_ok()) {
        Some((Ok(metadata), path)) if metadata.mode() & 0o4000 != 0 && metadata.uid() == 0 => {
            Check::ok("fuse", format!("/dev/fuse can be opened, {} is setuid", path.display()))
        }
        Some((_, path)) => {
            let path = path.display().to_string();
            Check::fail("fuse", format!("{path} is not setuid root"))
                .why("only root may mount, and it is what mounts for everybody else")
                .fix(format!("sudo chown root {path} && sudo chmod 4755 {path}"))
        }
        None => Check::fail("fuse", "fusermount3 is not installed")
            .why("only root may mount, and it is what mounts for everybody else")
            .fix("sudo apt install fuse3     (or: sudo dnf install fuse3)"),
    }
}

fn run_folder(env: &Env) -> Check {
    let folder = paths::run_dir(env);
    let shown = folder.display().to_string();
    let longest = folder.as_os_str().len() + "/.sock".len();
    let metadata = match fs::symlink_metadata(&folder) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return parent_allows("run folder", &folder, "made when the first mount starts");
        }
        Err(error) => {
            return Check::fail("run folder", format!("{shown}: {error}"))
                .why("control sockets lie there")
                .fix("set XDG_RUNTIME_DIR to a folder of your own");
        }
    };
    if !metadata.is_dir() || (metadata.uid() != env.uid && metadata.uid() != 0) {
        return Check::fail("run folder", format!("{shown} is not a folder of this user"))
            .why("whoever owns it can put sockets there that are not those of a daemon")
            .fix(format!("look at what it is: ls -ld {}", shell_word(&shown)));
    }
    if metadata.mode() & 0o022 != 0 {
        return Check::fail("run folder", format!("{shown} can be changed by other users"))
            .why("they could put sockets there that are not those of a daemon")
            .fix(format!("chmod 700 {}", shell_word(&shown)));
    }
    if longest + 32 > paths::SOCKET_PATH_BYTES_MAX {
        let short = paths::short_run_dir(env).display().to_string();
        return Check::warn("run folder", format!("{shown} is long for the path of a socket"))
            .why(format!("sockets of mounts with longer names lie in {short}"))
            .fix("set XDG_RUNTIME_DIR to a shorter one");
    }
    Check::ok("run folder", shown)
}

fn state_root(env: &Env) -> Check {
    let root = paths::state_root(env);
    match fs::metadata(&root) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => {
            return Check::fail("state root", format!("{} is not a folder", root.display()))
                .why("the state of all mounts lies below it")
                .fix("move it away");
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return parent_allows("state root", &root, "made when the first mount starts");
        }
        Err(error) => {
            return Check::fail("state root", format!("{}: {error}", root.display()))
                .why("the state of all mounts lies below it")
                .fix("set XDG_STATE_HOME to a folder of your own");
        }
    }
    writable("state root", &root)
}

/// Whether a folder that is not there yet can be made.
fn parent_allows(name: &str, folder: &Path, made: &str) -> Check {
    let shown = folder.display();
    let above = folder.ancestors().skip(1).find(|above| above.exists()).unwrap_or(Path::new("/"));
    if super::state::may_write(above) {
        return Check::ok(name, format!("{shown} is {made}"));
    }
    Check::fail(name, format!("{shown} is not there and cannot be made"))
        .why(format!("{} cannot be written by this user", above.display()))
        .fix(format!("sudo install -d -m 700 -o \"$(id -un)\" {shown}"))
}

fn writable(name: &str, folder: &Path) -> Check {
    let shown = folder.display();
    if super::state::may_write(folder) {
        Check::ok(name, shown.to_string())
    } else {
        Check::fail(name, format!("{shown} cannot be written by this user"))
            .why("no mount can be made")
            .fix(format!("ls -ld {shown}; mount | grep ' ro'"))
    }
}

/// Whether mounts of a service outlive the session, and whether its unit fits this installation.
fn service(env: &Env) -> Vec<Check> {
    if !Path::new("/run/systemd/system").exists() {
        return vec![Check::skip("service", "systemd does not run here")];
    }
    let mut checks = Vec::new();
    let unit = env.config_home().map(|home| home.join("systemd/user/mountd@.service"));
    let text = unit.as_ref().and_then(|unit| fs::read_to_string(unit).ok());
    let program = text.as_deref().and_then(unit_program);
    match (&unit, &text, program) {
        (Some(unit), Some(_), Some(program)) if !program.exists() => checks.push(
            Check::fail("unit", format!("{} starts {}", unit.display(), program.display()))
                .why("that program is not there")
                .fix(format!("sudo install mountd {}", program.display())),
        ),
        (Some(unit), Some(_), _) => checks.push(Check::ok("unit", unit.display().to_string())),
        _ => checks.push(Check::skip("unit", "no mount is a service of this user")),
    }
    if env.uid != 0 && text.is_some() {
        let user = User::from_uid(Uid::from_raw(env.uid)).ok().flatten();
        let name = user.map_or_else(|| env.uid.to_string(), |user| user.name);
        checks.push(if Path::new("/var/lib/systemd/linger").join(&name).exists() {
            Check::ok("linger", "on: mounts go on after logging out")
        } else {
            Check::warn("linger", "off")
                .why("services of this user end when the last session does, and mounts with them")
                .fix(format!("loginctl enable-linger {}", shell_word(&name)))
        });
    }
    checks
}

/// The program that a unit starts.
fn unit_program(unit: &str) -> Option<PathBuf> {
    let line = unit.lines().find_map(|line| line.trim().strip_prefix("ExecStart="))?;
    line.split_whitespace().next().map(PathBuf::from)
}

/// Daemons watch their token and rule files.
fn inotify() -> Option<Check> {
    let limit = |name: &str| -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/sys/fs/inotify/{name}")).ok()?;
        text.trim().parse().ok()
    };
    let (instances, watches) = (limit("max_user_instances")?, limit("max_user_watches")?);
    Some(inotify_of(instances, watches))
}

fn inotify_of(instances: u64, watches: u64) -> Check {
    let text = format!("{instances} instances, {watches} watches for each user");
    let mut fix = Vec::new();
    if instances < INOTIFY_INSTANCES_MIN {
        fix.push("sudo sysctl fs.inotify.max_user_instances=128".to_owned());
    }
    if watches < INOTIFY_WATCHES_MIN {
        fix.push("sudo sysctl fs.inotify.max_user_watches=65536".to_owned());
    }
    if fix.is_empty() {
        return Check::ok("inotify", text);
    }
    let check = Check::warn("inotify", text)
        .why("without them a new token and changed rules are noticed late; the mount itself works");
    Check { fix, ..check }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::api::Level;

    #[test]
    fn a_unit_names_its_program() {
        let unit = "[Service]\nType=notify\nExecStart=/usr/bin/mountd mount $X\n";
        assert_eq!(unit_program(unit), Some(PathBuf::from("/usr/bin/mountd")));
        assert_eq!(unit_program("[Unit]\n"), None);
    }

    #[test]
    fn low_limits_come_with_the_command_that_raises_them() {
        assert_eq!(inotify_of(128, 65_536).level, Level::Ok);
        let low = inotify_of(1, 8);
        assert_eq!((low.level, low.fix.len()), (Level::Warn, 2));
        assert!(low.fix[0].contains("max_user_instances"));
    }

    #[test]
    fn folders_that_others_can_change_are_refused() {
        let folder = std::env::temp_dir().join(format!("mountctl-doctor-{}", std::process::id()));
        let run = folder.join("mountd");
        fs::create_dir_all(&run).unwrap();
        let uid = fs::metadata(&run).unwrap().uid();
        let env = Env { uid, xdg_runtime_dir: Some(folder.clone()), ..Env::default() };
        fs::set_permissions(&run, fs::Permissions::from_mode(0o777)).unwrap();
        let open = run_folder(&env);
        assert_eq!(open.level, Level::Fail);
        assert_eq!(open.fix, [format!("chmod 700 {}", run.display())]);
        fs::set_permissions(&run, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(run_folder(&env).level, Level::Ok);
        fs::remove_dir_all(&run).unwrap();
        assert_eq!(run_folder(&env).level, Level::Ok, "it is made");
        fs::remove_dir_all(folder).unwrap();
    }
}
