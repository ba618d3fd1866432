//! What stands in the memory of a process, for those who look for what must not.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use memchr::memmem;
use nix::unistd::Pid;

const PAGE: u64 = 4096;
/// In RAM or in swap: bits 63 and 62 of an entry of `/proc/PID/pagemap` (proc_pid_pagemap(5)).
const THERE: u64 = 0b11 << 62;

/// Whether these bytes stand anywhere in the readable memory of a process. Of memory that it has reserved and never touched
/// there is nothing to read.
///
/// # Panics
/// If the memory cannot be read.
#[must_use]
pub fn holds(pid: Pid, needle: &[u8]) -> bool {
    let open = |name| File::open(format!("/proc/{pid}/{name}")).expect("root may look at memory");
    let (memory, pages) = (open("mem"), open("pagemap"));
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("root may read the maps");
    let mut regions = 0;
    let found = maps.lines().any(|line| {
        let mut columns = line.split_whitespace();
        let (range, rights) = (columns.next().unwrap(), columns.next().unwrap());
        // The kernel's own pages cannot be read like this.
        if !rights.starts_with('r') || line.ends_with("[vvar]") || line.ends_with("[vsyscall]") {
            return false;
        }
        let (start, end) = range.split_once('-').unwrap();
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        let (start, end) = (number(start), number(end));
        // Pages of a file that nobody has read yet are there as well, without an entry.
        let is_of_file = line.contains('/');
        let mut entries = vec![0; usize::try_from((end - start) / PAGE * 8).unwrap()];
        pages.read_exact_at(&mut entries, start / PAGE * 8).expect("the kernel tells of pages");
        let is_there = entries
            .as_chunks::<8>()
            .0
            .iter()
            .map(|entry| is_of_file || u64::from_ne_bytes(*entry) & THERE != 0);
        let mut bytes = Vec::new();
        let mut run = Vec::new();
        for (page, is_there) in is_there.chain([false]).enumerate() {
            if is_there {
                run.push(start + page as u64 * PAGE);
                continue;
            }
            let Some(first) = run.first() else { continue };
            bytes.resize(run.len() * PAGE as usize, 0);
            if memory.read_exact_at(&mut bytes, *first).is_ok() {
                regions += 1;
                if memmem::find(&bytes, needle).is_some() {
                    return true;
                }
            }
            run.clear();
        }
        false
    });
    assert!(found || regions > 5, "the memory was readable");
    found
}
