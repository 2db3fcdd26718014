//! What keepalived says, read: lines of its notify FIFO as they happen, and its whole state when it was asked.

use serde::Deserialize;

use super::machine::Said;

/// A line longer than this is none of keepalived's.
const LINE_BYTES_MAX: usize = 512;

/// Bytes of the FIFO, cut into lines; what comes in two reads is put together.
#[derive(Debug, Default)]
pub struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Takes bytes; calls `on_group` with each sync group and its new state, in order.
    pub fn take(&mut self, bytes: &[u8], mut on_group: impl FnMut(&str, Said)) {
        for byte in bytes {
            if *byte != b'\n' {
                // The end of an overlong line is left out, so it isn't understood.
                if self.rest.len() < LINE_BYTES_MAX {
                    self.rest.push(*byte);
                }
                continue;
            }
            if let Some((group, said)) = std::str::from_utf8(&self.rest).ok().and_then(group_line) {
                on_group(group, said);
            }
            self.rest.clear();
        }
    }

    /// Forgets a line that was begun.
    pub fn clear(&mut self) {
        self.rest.clear();
    }
}

/// `GROUP "name" STATE priority`. Lines of single instances say nothing that their group's doesn't.
fn group_line(line: &str) -> Option<(&str, Said)> {
    let (name, rest) = line.strip_prefix("GROUP \"")?.split_once("\" ")?;
    let said = match rest.split(' ').next()? {
        "MASTER" => Said::Master,
        "BACKUP" => Said::Backup,
        // Stopped or deleted: it has told the peer so (priority 0).
        "FAULT" | "STOP" | "DELETED" => Said::Fault,
        _ => return None,
    };
    Some((name, said))
}

#[derive(Deserialize)]
struct Instance {
    data: InstanceData,
}

#[derive(Deserialize)]
struct InstanceData {
    iname: String,
    state: u8,
}

/// Instances and their states out of what keepalived writes when it gets its JSON signal; none while the text isn't
/// whole. Sync groups aren't in it.
#[must_use]
pub fn instances(json: &str) -> Option<Vec<(String, Said)>> {
    let list: Vec<Instance> = serde_json::from_str(json).ok()?;
    let said = |state| match state {
        2 => Said::Master,
        0 | 1 => Said::Backup,
        _ => Said::Fault,
    };
    Some(
        list.into_iter()
            .map(|i| (i.data.iname, said(i.data.state)))
            .collect(),
    )
}

/// What a group is whose instances are these: they change together, and are the master only together.
#[must_use]
pub fn joined(instances: impl Iterator<Item = Said>) -> Said {
    instances
        .reduce(|a, b| match (a, b) {
            (Said::Fault, _) | (_, Said::Fault) => Said::Fault,
            (Said::Master, Said::Master) => Said::Master,
            _ => Said::Backup,
        })
        .unwrap_or(Said::Absent)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(chunks: &[&[u8]]) -> Vec<(String, Said)> {
        let (mut lines, mut said) = (Lines::default(), Vec::new());
        for chunk in chunks {
            lines.take(chunk, |group, state| said.push((group.to_owned(), state)));
        }
        said
    }

    #[test]
    fn groups_are_heard_in_order_and_everything_else_is_passed_over() {
        let text = b"INSTANCE \"a\" MASTER 100\nGROUP \"g\" MASTER 0\nGROUP \"h\" FAULT 0\nGROUP \"g\" STOP 0\n\
                     INSTANCE \"a\" MASTER_RX_LOWER_PRI 100\nGROUP \"g\" MASTER_PRIORITY 3\nGROUP g BACKUP\n\nGROUP \"g\" BACKUP 0\n";
        let wanted = [
            ("g", Said::Master),
            ("h", Said::Fault),
            ("g", Said::Fault),
            ("g", Said::Backup),
        ];
        assert_eq!(read(&[text]), wanted.map(|(g, s)| (g.to_owned(), s)));
    }

    #[test]
    fn an_overlong_line_is_no_line_and_the_next_one_is() {
        let long = [b'x'; LINE_BYTES_MAX * 2];
        let said = read(&[b"GROUP \"", &long, b"\" MASTER 0\nGROUP \"g\" BACKUP 0\n"]);
        assert_eq!(said, [("g".to_owned(), Said::Backup)]);
    }

    #[test]
    fn the_state_file_counts_once_it_is_whole() {
        let text = r#"[{"data":{"iname":"a","vrid":51,"state":2,"vips":["10.0.0.1"]},"stats":{}},{"data":{"iname":"b","state":3},"stats":{}}]"#;
        assert_eq!(
            instances(text).unwrap(),
            [("a".to_owned(), Said::Master), ("b".to_owned(), Said::Fault)]
        );
        for cut in 0..text.len() {
            assert_eq!(instances(&text[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn a_group_is_master_when_all_of_it_is_and_in_fault_when_any_of_it_is() {
        use Said::{Absent, Backup, Fault, Master};
        for (instances, group) in [
            (vec![Master, Master], Master),
            (vec![Master, Backup], Backup),
            (vec![Backup, Backup], Backup),
            (vec![Master, Fault, Master], Fault),
            (vec![], Absent),
        ] {
            assert_eq!(joined(instances.into_iter()), group);
        }
    }

    proptest! {
        #[test]
        fn where_reads_cut_the_bytes_makes_no_difference(cut in 0_usize..120, bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut text = b"GROUP \"g\" MASTER 0\nGROUP \"g\" BACKUP 0\n".to_vec();
            text.extend(bytes);
            let cut = cut.min(text.len());
            prop_assert_eq!(read(&[&text[..cut], &text[cut..]]), read(&[&text]));
        }
    }
}
