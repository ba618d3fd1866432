//! Reading what is secret, writing what stays.

use std::ffi::CString;

use libc::{AT_FDCWD, O_CREAT, O_DIRECTORY, O_PATH, O_RDONLY, O_WRONLY};
use nix::errno::Errno;
use shared::descriptor::{METRICS, USAGE};
use shared::ring::RING_BYTES;

use super::{Attempt, done};
use crate::stage::{Outcome, Stage};
use crate::sys::call;

pub const ATTEMPTS: &[(&str, Attempt)] = &[
    ("read_key", |stage| read(stage.text("key"))),
    ("read_state_directory", |stage| open(stage.text("folder"), O_DIRECTORY)),
    ("read_passwd", |_| read("/etc/passwd")),
    ("read_own_maps", |_| read("/proc/self/maps")),
    ("write_own_memory", |_| open("/proc/self/mem", O_WRONLY)),
    ("read_supervisor_environment", |stage| read(&of(stage, "supervisor", "environ"))),
    ("read_supervisor_memory", |stage| open(&of(stage, "supervisor", "mem"), O_RDONLY)),
    ("read_sibling_environment", |stage| read(&of(stage, "sibling", "environ"))),
    ("read_sibling_memory", |stage| open(&of(stage, "sibling", "mem"), O_RDONLY)),
    ("open_path_only", |_| open("/etc/passwd", O_PATH)),
    ("openat2", |_| {
        let path = text("/etc/passwd");
        let how = [0u64; 3];
        let (path, how) = (path.as_ptr() as usize, how.as_ptr() as usize);
        done(call(libc::SYS_openat2, [AT_FDCWD as usize, path, how, 24]))
    }),
    #[cfg(target_arch = "x86_64")]
    ("open_old", |_| done(call(libc::SYS_open, [text("/etc/passwd").as_ptr() as usize, 0]))),
    ("open_by_handle", |_| {
        let handle = [8u32, 1, 0, 0];
        done(call(libc::SYS_open_by_handle_at, [usize::MAX, handle.as_ptr() as usize, 0]))
    }),
    ("stat", |_| {
        let (path, buffer) = (text("/etc/passwd"), [0u8; 512]);
        let (path, buffer) = (path.as_ptr() as usize, buffer.as_ptr() as usize);
        done(call(libc::SYS_newfstatat, [AT_FDCWD as usize, path, buffer, 0]))
    }),
    ("create_file", |stage| open(&format!("{}/planted", stage.text("folder")), O_WRONLY | O_CREAT)),
    ("remove_file", |stage| {
        let path = text(stage.text("victim"));
        done(call(libc::SYS_unlinkat, [AT_FDCWD as usize, path.as_ptr() as usize, 0]))
    }),
    ("rename_file", |stage| {
        let (from, to) = (text(stage.text("victim")), text(&format!("{}/b", stage.text("folder"))));
        let (from, to) = (from.as_ptr() as usize, to.as_ptr() as usize);
        let here = AT_FDCWD as usize;
        done(call(libc::SYS_renameat2, [here, from, here, to, 0]))
    }),
    ("memory_file", |_| done(call(libc::SYS_memfd_create, [text("x").as_ptr() as usize, 0]))),
    ("secret_memory", |_| done(call(libc::SYS_memfd_secret, [0]))),
    ("resize_ring", |_| done(call(libc::SYS_ftruncate, [USAGE as usize, 0]))),
    ("resize_metrics", |_| done(call(libc::SYS_ftruncate, [METRICS as usize, 0]))),
    ("write_behind_ring", |_| write_ring(RING_BYTES)),
    ("write_far_behind_ring", |_| write_ring(RING_BYTES + 1)),
    ("write_metrics_at", |_| {
        let byte = [0u8];
        done(call(libc::SYS_pwrite64, [METRICS as usize, byte.as_ptr() as usize, 1, 0]))
    }),
    ("terminal_input", |_| {
        let byte = [b'x'];
        done(call(libc::SYS_ioctl, [0, libc::TIOCSTI as usize, byte.as_ptr() as usize]))
    }),
];

fn text(path: &str) -> CString {
    CString::new(path).unwrap_or_default()
}

fn of(stage: &Stage, whose: &str, file: &str) -> String {
    format!("/proc/{}/{file}", stage.text(whose))
}

fn open(path: &str, flags: libc::c_int) -> Outcome {
    let path = text(path);
    let flags = flags as usize;
    done(call(libc::SYS_openat, [AT_FDCWD as usize, path.as_ptr() as usize, flags, 0o600]))
}

fn read(path: &str) -> Outcome {
    let file = open(path, O_RDONLY)?.parse().map_err(|_| Errno::EINVAL)?;
    let buffer = [0u8; 64];
    let bytes = call(libc::SYS_read, [file, buffer.as_ptr() as usize, buffer.len()])?;
    Ok(format!("{bytes} bytes"))
}

fn write_ring(offset: u64) -> Outcome {
    let byte = [0u8];
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    done(call(libc::SYS_pwrite64, [USAGE as usize, byte.as_ptr() as usize, 1, offset]))
}
