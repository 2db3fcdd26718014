//! The manual pages of `twinpathctl`, one for each command, written from the definition of its words when the package is
//! built: a page can't tell another story than the program.

use std::io;
use std::path::Path;

use clap::Command;
use clap_mangen::Man;

/// System administration commands.
const SECTION: &str = "8";

/// Writes `twinpathctl.8`, `twinpathctl-show.8`, `twinpathctl-show-conntrack.8`, … into `folder`.
pub(crate) fn write(command: Command, folder: &Path) -> io::Result<()> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    page(&command, folder)
}

fn page(command: &Command, folder: &Path) -> io::Result<()> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        page(below, folder)?;
    }
    let man = Man::new(command.clone()).section(SECTION).manual("twinpath");
    man.generate_to(folder)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::words::Line;

    #[test]
    fn every_command_that_is_not_hidden_has_a_page() {
        let folder = std::env::temp_dir().join(format!("twinpathctl-manual-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        write(Line::command(), &folder).unwrap();
        let mut pages: Vec<String> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        pages.sort();
        let text = std::fs::read_to_string(folder.join("twinpathctl-show-conntrack.8")).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(pages.contains(&"twinpathctl.8".to_owned()), "{pages:?}");
        assert!(
            pages.contains(&"twinpathctl-show-ha-fp-conntrack-peer.8".to_owned()),
            "{pages:?}"
        );
        assert!(!pages.iter().any(|page| page.contains("manual")), "{pages:?}");
        assert!(text.contains(".TH") && text.contains("limit"), "{text}");
    }
}
