//! An error and what caused it, in one line for whoever started a program.

use std::error::Error;

/// Each cause once: many errors name theirs already.
#[must_use]
pub fn causes(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
        next = cause.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Made {
        #[error("no such device")]
        Device,
        #[error("socket: {0}")]
        Names(#[source] Box<Self>),
        #[error("reading a file")]
        KeepsQuiet(#[source] Box<Self>),
    }

    #[test]
    fn a_cause_is_told_once_whether_its_error_names_it_or_not() {
        let device = || Box::new(Made::Device);
        assert_eq!(causes(&Made::Device), "no such device");
        let named = Made::Names(Box::new(Made::Names(device())));
        assert_eq!(causes(&named), "socket: socket: no such device");
        let quiet = Made::KeepsQuiet(Box::new(Made::Names(device())));
        assert_eq!(causes(&quiet), "reading a file: socket: no such device");
    }
}
