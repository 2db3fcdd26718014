//! What the kernel says of a lane's socket, in place of the lane itself.

use core::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context, ensure};

/// Bytes that the busiest connection from the first address to `port` of the second one has sent, those sent again not
/// counted; none where iproute2's `ss`, which asks the kernel for its tcp_info, is not installed.
pub(crate) fn bytes_sent([from, to]: [Ipv4Addr; 2], port: u16) -> anyhow::Result<Option<u64>> {
    let filter = format!("src {from} and dst {to}:{port}");
    let Ok(said) = Command::new("ss")
        .args(["-tinH", "state", "established", &filter])
        .output()
    else {
        return Ok(None);
    };
    ensure!(
        said.status.success(),
        "ss: {}",
        String::from_utf8_lossy(&said.stderr)
    );
    let text = String::from_utf8(said.stdout)?;
    let sent = text.lines().filter_map(sent).max();
    Ok(Some(sent.with_context(|| {
        format!("no connection that has sent anything: {text}")
    })?))
}

fn sent(line: &str) -> Option<u64> {
    let value = |name: &str| {
        let mut words = line.split_whitespace();
        words.find_map(|word| word.strip_prefix(name)?.parse::<u64>().ok())
    };
    Some(value("bytes_sent:")? - value("bytes_retrans:").unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_again_is_not_counted() {
        let line =
            "\t bbr mss:65483 bytes_sent:11165882 bytes_retrans:34810 bytes_acked:11131073 retrans:0/13";
        assert_eq!(sent(line), Some(11_131_072));
        assert_eq!(sent("bytes_sent:7 bytes_acked:8"), Some(7));
        assert_eq!(sent("0 0 127.0.71.1:40000 127.0.71.2:7610"), None);
    }
}
