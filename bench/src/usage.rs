//! What a run took: processor time from `/proc`, memory, log and disk of the database.

use std::collections::HashMap;

use serde::Serialize;

/// What a run took.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Usage {
    /// Processor seconds of the contender's processes.
    pub(crate) contender_cpu: f64,
    /// Of PostgreSQL.
    pub(crate) postgres_cpu: f64,
    /// Of Kafka.
    pub(crate) kafka_cpu: f64,
    /// The most resident memory of any of the contender's processes.
    pub(crate) peak_mib: u64,
    /// Bytes of write-ahead log.
    pub(crate) wal_bytes: i64,
    /// Bytes of tables, without indexes.
    pub(crate) table_bytes: i64,
    /// Bytes of indexes.
    pub(crate) index_bytes: i64,
}

/// Processor seconds so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clocks {
    pub(crate) own_children: f64,
    pub(crate) postgres: f64,
    pub(crate) kafka: f64,
}

impl Clocks {
    /// What they have gone on by.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            own_children: self.own_children - before.own_children,
            postgres: self.postgres - before.postgres,
            kafka: self.kafka - before.kafka,
        }
    }
}

struct Process {
    parent: u32,
    own: u64,
    reaped: u64,
}

/// Reads them. `postgres` and `kafka` are the processes that the servers were started as.
pub(crate) fn clocks(postgres: Option<u32>, kafka: Option<u32>) -> Clocks {
    let processes = processes();
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    let tree = |root: Option<u32>| {
        root.map_or(0.0, |root| ticks_of_tree(&processes, root) as f64 / per_second)
    };
    let me = processes.get(&std::process::id());
    Clocks {
        own_children: me.map_or(0.0, |me| me.reaped as f64 / per_second),
        postgres: tree(postgres),
        kafka: tree(kafka),
    }
}

/// Of a process, of those below it, and of those below it that have ended.
fn ticks_of_tree(processes: &HashMap<u32, Process>, root: u32) -> u64 {
    let is_below = |pid: u32| {
        let mut at = pid;
        // No tree is deeper, and a table read while it changes may have a circle.
        for _ in 0..64 {
            if at == root {
                return true;
            }
            match processes.get(&at) {
                Some(process) => at = process.parent,
                None => return false,
            }
        }
        false
    };
    processes
        .iter()
        .filter(|(pid, _)| is_below(**pid))
        .map(|(_, process)| process.own + process.reaped)
        .sum()
}

fn processes() -> HashMap<u32, Process> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            Some((pid, parse(&stat)?))
        })
        .collect()
}

/// A line of `/proc/PID/stat`. The program's name, in brackets, may hold anything.
fn parse(stat: &str) -> Option<Process> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Process {
        parent: fields.get(1)?.parse().ok()?,
        own: number(11)? + number(12)?,
        reaped: number(13)? + number(14)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_stat_is_read_whatever_the_program_is_called() {
        let line = "42 (a) b (c) S 7 42 42 0 -1 4194560 1 2 3 4 10 5 100 50 20 0 1 0 9 0 0";
        let process = parse(line).unwrap();
        assert_eq!((process.parent, process.own, process.reaped), (7, 15, 150));
        assert!(parse("nonsense").is_none() && parse("1 (x) S 1").is_none());
    }

    #[test]
    fn a_tree_counts_what_is_below_it_and_what_has_ended_there() {
        let process = |parent, own, reaped| Process { parent, own, reaped };
        let processes = HashMap::from([
            (1, process(0, 1000, 0)),
            (2, process(1, 1, 10)),
            (3, process(2, 100, 0)),
            (4, process(1, 5000, 0)),
        ]);
        assert_eq!(ticks_of_tree(&processes, 2), 111);
        assert_eq!(ticks_of_tree(&processes, 9), 0);
    }
}
