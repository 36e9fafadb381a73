//! Settling: what a refused or uncertain change leads to, once the remote's state was read.
//!
//! Pure. The rules of `docs/semantics.md`, section 3, in one function.

use crate::digest::Digest;
use crate::record::{Op, Record};
use crate::remote::RemoteFile;
use crate::revision::Base;

/// What to do with a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The remote has what we wanted: adopt its version.
    Adopt,
    /// Send again, on this base.
    Resend(Base),
    /// Both sides changed: theirs takes the name, ours is kept beside.
    Keep,
    /// Our removal or change of metadata gives way to their edit.
    Yield,
}

/// Decides over `record`, whose content now has the digest `ours`, given what the remote has.
#[must_use]
pub fn settle(record: &Record, ours: Option<&Digest>, theirs: Option<&RemoteFile>) -> Verdict {
    let Some(theirs) = theirs else {
        return match record.op {
            // An edit against a remote removal creates the file again.
            Op::Put => Verdict::Resend(Base::Absent),
            Op::Delete => Verdict::Adopt,
            // Of folders nothing can be read; asking again does no harm.
            Op::RemoveDir | Op::MakeDir => Verdict::Resend(Base::Absent),
            Op::Meta => Verdict::Yield,
        };
    };
    let same_bytes = |digest: &Digest| theirs.digest.as_ref() == Some(digest);
    let is_base = match record.known_base() {
        Some(Base::Revision(revision)) => theirs.revision.as_ref() == Some(revision),
        Some(Base::Date(date)) => theirs.edited_at.is_some_and(|edited| edited <= *date),
        Some(Base::Absent) | None => false,
    };
    let is_ours = record.sent.iter().any(same_bytes);
    // The bytes that ours were made from, whatever revision they have there: nothing is lost.
    let known = record.base_content.as_ref().and_then(|base| base.digest);
    let is_same = known.as_ref().is_some_and(same_bytes);
    let base_now = || match (&theirs.revision, theirs.edited_at) {
        (Some(revision), _) => Some(Base::Revision(revision.clone())),
        (None, Some(date)) => Some(Base::Date(date)),
        (None, None) => None,
    };
    match record.op {
        Op::Put if ours.is_some_and(same_bytes) => Verdict::Adopt,
        Op::Put | Op::Delete if is_base || is_ours || is_same => {
            base_now().map_or(Verdict::Keep, Verdict::Resend)
        }
        Op::Put => Verdict::Keep,
        Op::Delete => Verdict::Yield,
        Op::Meta if is_base => base_now().map_or(Verdict::Yield, Verdict::Resend),
        // A file of the folder's name is in the way.
        Op::Meta | Op::MakeDir => Verdict::Yield,
        Op::RemoveDir => Verdict::Resend(Base::Absent),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::node::{BlobId, Ino};
    use crate::path::WsPath;
    use crate::record::{BaseContent, RecordBase, RecordState, Seq};
    use crate::remote::{Metadata, Size};
    use crate::revision::Revision;

    fn record(op: Op, base: Base, sent: &[&str]) -> Record {
        Record {
            seq: Seq(1),
            key: 1,
            path: WsPath::parse("/f").unwrap(),
            op,
            ino: Some(Ino(2)),
            base: RecordBase::Known(base),
            base_content: None,
            moved_to: None,
            blob: None,
            size: 0,
            recorded_at: Timestamp::UNIX_EPOCH,
            state: RecordState::Flight,
            attempts: 1,
            sent: sent.iter().map(|text| Digest::of(text.as_bytes())).collect(),
            last_error: None,
            needs_approval: false,
        }
    }

    fn revision(n: u32) -> Base {
        Base::Revision(Revision::new(&format!("rev_{n}")).unwrap())
    }

    fn theirs(n: u32, text: &str) -> RemoteFile {
        RemoteFile {
            path: WsPath::parse("/f").unwrap(),
            revision: Revision::new(&format!("rev_{n}")),
            digest: Some(Digest::of(text.as_bytes())),
            size: Size::Exact(text.len() as u64),
            edited_at: Some(Timestamp::from_second(50).unwrap()),
            metadata: Metadata::default(),
            body: None,
        }
    }

    #[test]
    fn puts() {
        let ours = Digest::of(b"ours");
        let put = |base, sent: &[&str], theirs: Option<&RemoteFile>| {
            settle(&record(Op::Put, base, sent), Some(&ours), theirs)
        };
        // A lost reply: the remote has our bytes already.
        assert_eq!(put(Base::Absent, &["ours"], Some(&theirs(4, "ours"))), Verdict::Adopt);
        // Somebody else wrote the very same bytes.
        assert_eq!(put(revision(1), &[], Some(&theirs(4, "ours"))), Verdict::Adopt);
        // An earlier attempt of ours landed, the file changed since.
        assert_eq!(
            put(Base::Absent, &["older"], Some(&theirs(4, "older"))),
            Verdict::Resend(revision(4))
        );
        // Nothing changed there: the request was lost on its way.
        assert_eq!(put(revision(4), &[], Some(&theirs(4, "x"))), Verdict::Resend(revision(4)));
        // Removed there, edited here.
        assert_eq!(put(revision(4), &[], None), Verdict::Resend(Base::Absent));
        // Both edited, or both created.
        assert_eq!(put(revision(3), &[], Some(&theirs(4, "x"))), Verdict::Keep);
        assert_eq!(put(Base::Absent, &[], Some(&theirs(4, "x"))), Verdict::Keep);
        // The server named no revision for what ours was made from.
        let mut unnamed = record(Op::Put, Base::Absent, &[]);
        let digest = Some(Digest::of(b"x"));
        unnamed.base_content = Some(BaseContent { blob: BlobId(1), digest });
        let verdict = |text| settle(&unnamed, Some(&ours), Some(&theirs(4, text)));
        assert_eq!(verdict("x"), Verdict::Resend(revision(4)));
        assert_eq!(verdict("y"), Verdict::Keep);
        // Only a date is known.
        let date = |s| Base::Date(Timestamp::from_second(s).unwrap());
        assert_eq!(put(date(50), &[], Some(&theirs(4, "x"))), Verdict::Resend(revision(4)));
        assert_eq!(put(date(49), &[], Some(&theirs(4, "x"))), Verdict::Keep);
    }

    #[test]
    fn folders_are_asked_for_again_and_give_way_to_files() {
        let decide =
            |op, theirs: Option<&RemoteFile>| settle(&record(op, Base::Absent, &[]), None, theirs);
        assert_eq!(decide(Op::MakeDir, None), Verdict::Resend(Base::Absent));
        assert_eq!(decide(Op::RemoveDir, None), Verdict::Resend(Base::Absent));
        assert_eq!(decide(Op::MakeDir, Some(&theirs(1, "x"))), Verdict::Yield);
    }

    #[test]
    fn removals_give_way_to_edits() {
        let delete = |base, sent: &[&str], theirs: Option<&RemoteFile>| {
            settle(&record(Op::Delete, base, sent), None, theirs)
        };
        assert_eq!(delete(revision(1), &[], None), Verdict::Adopt);
        assert_eq!(delete(revision(1), &[], Some(&theirs(2, "edit"))), Verdict::Yield);
        assert_eq!(delete(revision(2), &[], Some(&theirs(2, "x"))), Verdict::Resend(revision(2)));
        // Our own bytes of unknown fate, removed since.
        assert_eq!(
            delete(Base::Absent, &["ours"], Some(&theirs(3, "ours"))),
            Verdict::Resend(revision(3))
        );
        assert_eq!(delete(Base::Absent, &["ours"], Some(&theirs(3, "other"))), Verdict::Yield);
    }
}
