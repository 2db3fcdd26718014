//! What each HA group shall be. Starts as the configuration prefers; an operator's order changes it, and is kept in
//! memory only. The role itself is played by the data process, where it outlives this one.
//!
//! An order is a moment, not a property: it is explicit when it is given. A data process that starts later is told
//! the state as a preference, and its peers' terms decide; otherwise an old order would take the active role
//! away from the node that has it by now.

use ctl::protocol::Refusal;
use ctl::report::{GroupRow, GroupState};

use crate::ipc::Request;

/// All groups of the configuration.
#[derive(Debug, Clone)]
pub struct Groups {
    list: Vec<GroupRow>,
}

impl Groups {
    /// The groups as configured.
    #[must_use]
    pub fn new(configured: impl IntoIterator<Item = (String, GroupState)>) -> Self {
        let row = |(name, state)| GroupRow {
            name,
            state,
            explicit: false,
        };
        Self {
            list: configured.into_iter().map(row).collect(),
        }
    }

    /// The request that carries out an operator's order.
    ///
    /// # Errors
    /// When there is no such group.
    pub fn order(&self, name: &str, state: GroupState) -> Result<Request, Refusal> {
        if !self.list.iter().any(|group| group.name == name) {
            return Err(Refusal::not_found("HA group", name));
        }
        Ok(Request::SetGroup {
            name: name.to_owned(),
            state,
            explicit: true,
        })
    }

    /// The order was carried out.
    pub fn ordered(&mut self, name: &str, state: GroupState) {
        if let Some(group) = self.list.iter_mut().find(|group| group.name == name) {
            (group.state, group.explicit) = (state, true);
        }
    }

    /// Brings both processes to one opinion after a connect. `told`: what the data process was last told. What it
    /// runs under is never overridden; what it doesn't know is returned as requests.
    pub fn settle(&mut self, told: &[GroupRow]) -> Vec<Request> {
        let mut requests = Vec::new();
        for group in &mut self.list {
            match told.iter().find(|t| t.name == group.name) {
                Some(theirs) if theirs.explicit => (group.state, group.explicit) = (theirs.state, true),
                Some(theirs) if theirs.state == group.state => {}
                _ => requests.push(Request::SetGroup {
                    name: group.name.clone(),
                    state: group.state,
                    explicit: false,
                }),
            }
        }
        requests
    }

    /// The groups as of now.
    #[must_use]
    pub fn rows(&self) -> &[GroupRow] {
        &self.list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(state: GroupState, explicit: bool) -> Vec<GroupRow> {
        vec![GroupRow {
            name: "g".into(),
            state,
            explicit,
        }]
    }

    fn groups(state: GroupState) -> Groups {
        Groups::new([("g".to_owned(), state)])
    }

    #[test]
    fn what_runs_is_read_back_and_what_is_unknown_is_told_as_a_preference() {
        use GroupState::{Backup, Master};
        for (configured, ordered, there, after, sent) in [
            // This process restarted: the order lives in the data process.
            (Master, None, told(Backup, true), (Backup, true), None),
            (Master, None, told(Master, false), (Master, false), None),
            // The data process restarted: it knows its configuration only, and isn't ordered again.
            (
                Master,
                Some(Backup),
                told(Master, false),
                (Backup, true),
                Some(Backup),
            ),
            (
                Backup,
                Some(Master),
                told(Backup, false),
                (Master, true),
                Some(Master),
            ),
            // It knows nothing.
            (Backup, None, vec![], (Backup, false), Some(Backup)),
        ] {
            let mut groups = groups(configured);
            if let Some(state) = ordered {
                groups.ordered("g", state);
            }
            let requests = groups.settle(&there);
            let row = &groups.rows()[0];
            assert_eq!((row.state, row.explicit), after);
            let wanted: Vec<_> = sent
                .map(|state| Request::SetGroup {
                    name: "g".into(),
                    state,
                    explicit: false,
                })
                .into_iter()
                .collect();
            assert_eq!(requests, wanted);
        }
    }

    #[test]
    fn an_order_for_an_unknown_group_is_refused() {
        assert!(groups(GroupState::Master).order("h", GroupState::Master).is_err());
    }
}
