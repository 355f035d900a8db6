//! One file of the journal, group by group, and what to make of its end.
//!
//! A group that is not whole is where a crash came, and the file ends before it: unless a later group says that the log was
//! known to be safe beyond it. Then something on the disk has changed, and that is damage.
//!
//! Never: understands records.

use crate::format::{ALIGN, GroupHeader, JOURNAL_HEADER, JournalHeader};

/// What reading a file came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// Nothing but what was never written, or an earlier use, follows.
    Clean,
    /// A crash came while this was being written; so many bytes of it were there.
    Torn {
        at: usize,
    },
    Damaged {
        at: usize,
        what: String,
    },
}

/// Calls `each` with every whole group in order (header, where its content begins, content). `lsn` is where the log is; it
/// moves.
pub(crate) fn groups<E>(
    bytes: &[u8],
    header: &JournalHeader,
    lsn: &mut u64,
    mut each: impl FnMut(&GroupHeader, usize, &[u8]) -> Result<(), E>,
) -> Result<End, E> {
    let mut at = JOURNAL_HEADER;
    loop {
        let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) else { return Ok(End::Clean) };
        let found = group(rest, header).filter(|(group, _)| group.from == *lsn);
        let Some((group, content)) = found else { return Ok(end(bytes, header, at, *lsn)) };
        each(&group, at + crate::format::GROUP_HEADER, content)?;
        *lsn = group.to;
        at += GroupHeader::padded(content.len());
    }
}

/// The group at the front, if it is whole and of this use of the file.
pub(crate) fn group<'b>(bytes: &'b [u8], header: &JournalHeader) -> Option<(GroupHeader, &'b [u8])> {
    let (group, content) = GroupHeader::decode(bytes)?;
    (group.file == header.number && group.generation == header.generation).then_some((group, content))
}

/// Why there is no group here.
fn end(bytes: &[u8], header: &JournalHeader, at: usize, lsn: u64) -> End {
    let mut later = at;
    while let Some(rest) = bytes.get(later..).filter(|rest| rest.len() >= ALIGN) {
        if let Some((group, content)) = group(rest, header) {
            if group.durable > lsn {
                let what = format!("what was safe up to position {} ends at {lsn}", group.durable);
                return End::Damaged { at, what };
            }
            later += GroupHeader::padded(content.len());
        } else {
            later += ALIGN;
        }
    }
    let begun = bytes.get(at..at + 4).is_some_and(|front| front.iter().any(|byte| *byte != 0));
    if begun && GroupHeader::is_begun(bytes.get(at..).unwrap_or_default(), header) {
        End::Torn { at }
    } else {
        End::Clean
    }
}
