//! Whose turn it is: round robin among the consumers that have credit, higher priorities first.
//!
//! A consumer enters the ring when it gets credit and is thrown out when its turn comes and it has none: a queue whose
//! consumers wait for nothing scans nobody.
//!
//! Never: counts credit; whoever asks for a turn judges.

use std::collections::VecDeque;

/// What a consumer is to the message at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Takes,
    /// It has credit, but not for this message.
    Refuses,
    /// It leaves the ring.
    NoCredit,
}

#[derive(Debug, Default)]
pub(super) struct Ring {
    /// Those that asked for single messages; they come before the round.
    getters: VecDeque<u32>,
    /// Highest priority first; none is empty of members for long.
    groups: Vec<Group>,
}

#[derive(Debug)]
struct Group {
    priority: i32,
    turns: VecDeque<u32>,
}

impl Ring {
    pub(super) fn join_getters(&mut self, slot: u32) {
        self.getters.push_back(slot);
    }

    pub(super) fn join(&mut self, priority: i32, slot: u32) {
        let at = self.groups.partition_point(|group| group.priority > priority);
        match self.groups.get_mut(at).filter(|group| group.priority == priority) {
            Some(group) => group.turns.push_back(slot),
            None => self.groups.insert(at, Group { priority, turns: VecDeque::from([slot]) }),
        }
    }

    /// Only for a consumer that ends: it costs a scan.
    pub(super) fn leave(&mut self, slot: u32) {
        self.getters.retain(|member| *member != slot);
        for group in &mut self.groups {
            group.turns.retain(|member| *member != slot);
        }
        self.groups.retain(|group| !group.turns.is_empty());
    }

    /// The next who takes the message, moved to the end of the round.
    pub(super) fn next(&mut self, mut judge: impl FnMut(u32) -> Verdict) -> Option<u32> {
        if !self.getters.is_empty()
            && let Some(slot) = next_in(&mut self.getters, &mut judge)
        {
            return Some(slot);
        }
        self.groups.iter_mut().find_map(|group| next_in(&mut group.turns, &mut judge))
    }
}

fn next_in(turns: &mut VecDeque<u32>, judge: &mut impl FnMut(u32) -> Verdict) -> Option<u32> {
    for _ in 0..turns.len() {
        let slot = turns.pop_front()?;
        match judge(slot) {
            Verdict::NoCredit => continue,
            Verdict::Refuses => turns.push_back(slot),
            Verdict::Takes => {
                turns.push_back(slot);
                return Some(slot);
            }
        }
    }
    None
}
