//! Where it was measured, and what.

use std::fs;
use std::path::Path;
use std::process::Command;

/// The machine and the programs.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Machine {
    processor: String,
    cores: usize,
    kernel: String,
    /// Load average at the start: of other things than this.
    load_before: String,
    nginx: String,
    haproxy: String,
    aisix: String,
    /// How this was called.
    arguments: Vec<String>,
}

impl Machine {
    /// This one, and the gateway in that folder.
    pub fn look(aisix: &Path) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = cpuinfo.lines().find_map(|line| line.strip_prefix("model name\t: "));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self {
            processor: processor.unwrap_or_default().to_owned(),
            cores: cpuinfo.lines().filter(|line| line.starts_with("processor\t")).count(),
            kernel: kernel.trim().to_owned(),
            load_before: load.split(' ').take(3).collect::<Vec<_>>().join(" "),
            nginx: first_line("nginx", "-v"),
            haproxy: first_line("haproxy", "-v"),
            aisix: first_line(&aisix.display().to_string(), "--version"),
            arguments: std::env::args().skip(1).collect(),
        }
    }

    /// In a few lines.
    pub fn lines(&self) -> Vec<String> {
        vec![
            format!("{} ({} cores), Linux {}", self.processor, self.cores, self.kernel),
            format!("load average before: {}", self.load_before),
            format!("{}; {}; {}", self.nginx, self.haproxy, self.aisix),
            format!("arguments: {}", self.arguments.join(" ")),
        ]
    }
}

fn first_line(program: &str, argument: &str) -> String {
    let Ok(output) = Command::new(program).arg(argument).output() else { return String::new() };
    // nginx tells its version as an error.
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned()
}
