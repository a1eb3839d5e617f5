//! Random operations: mostly on names that are there, or may be by now, at offsets where pages, blocks and files end.

use libc::{
    O_APPEND, O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_PATH, O_RDONLY, O_RDWR, O_TMPFILE, O_TRUNC, O_WRONLY,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::operation::{LockKind, Name, Operation, SLOTS};

/// What trees hold at first, which [`super::given`] writes.
const GIVEN: [&str; 16] = [
    "small",
    "empty",
    "large",
    "text",
    "binary",
    "program",
    "dir",
    "dir/a",
    "dir/b",
    "dir/sub",
    "dir/sub/c",
    "link",
    "way",
    "way/a",
    "dangling",
    "loop",
];

/// What may be made.
const FRESH: [&str; 7] = ["new", "other", "made", "made/x", "dir/new", "dir/sub/new", "way/new"];

/// What cannot be, or is another name of something.
const ODD: [&str; 8] = [
    "nothing",
    "small/",
    "small/x",
    "dir/",
    "dir/../small",
    "nothing/x",
    "loop/x",
    ".",
];

/// The longest name that Linux takes (`NAME_MAX`), and so one that is too long.
const LONGEST_NAME_BYTES: usize = 255;

/// Offsets and lengths of interest.
const SIZES: [u64; 10] = [0, 1, 12, 4095, 4096, 5000, 65_536, 131_072, 200_003, 300_000];

/// Extended attributes that are set and asked for.
const ATTRIBUTES: [&str; 4] = ["user.note", "user.other", "trusted.note", "user.nothing"];

/// What changes nothing.
pub(crate) fn looks() -> impl Strategy<Value = Operation> {
    use Operation as O;
    prop_oneof![
        4 => (name(), any::<bool>()).prop_map(|(path, follows)| O::Stat { path, follows }),
        4 => (name(), size(), length()).prop_map(|(path, offset, len)| O::Read { path, offset, len }),
        2 => (name(), length(), length()).prop_map(|(path, offset, len)| O::Map { path, offset, len }),
        3 => (name(), 0..8_usize).prop_map(|(path, from)| O::List { path, from }),
        2 => name().prop_map(|path| O::Readlink { path }),
        2 => (name(), 0..8_u32).prop_map(|(path, bits)| O::Access { path, bits }),
        1 => (name(), select(&ATTRIBUTES)).prop_map(|(path, name)| O::GetAttribute { path, name }),
        1 => name().prop_map(|path| O::ListAttributes { path }),
        6 => (slot(), name(), select(&[O_RDONLY, O_PATH, O_DIRECTORY, O_NOFOLLOW]))
            .prop_map(|(slot, path, flags)| O::Open { slot, path, flags: flags.cast_unsigned(), mode: 0 }),
        4 => in_open_file(),
    ]
}

/// What changes nothing of a file that is open.
fn in_open_file() -> impl Strategy<Value = Operation> {
    use Operation as O;
    let kind = select(&[LockKind::Shared, LockKind::Exclusive, LockKind::Free]);
    prop_oneof![
        4 => (slot(), size(), length()).prop_map(|(slot, offset, len)| O::ReadSlot { slot, offset, len }),
        2 => (slot(), any::<bool>(), size()).prop_map(|(slot, hole, offset)| O::SeekSlot { slot, hole, offset }),
        2 => slot().prop_map(|slot| O::StatSlot { slot }),
        1 => slot().prop_map(|slot| O::SyncSlot { slot }),
        1 => slot().prop_map(|slot| O::IsTerminal { slot }),
        1 => slot().prop_map(|slot| O::Close { slot }),
        3 => (slot(), any::<bool>(), kind).prop_map(|(slot, whole, kind)| O::LockSlot { slot, whole, kind }),
    ]
}

/// What changes directories, or tries to.
pub(crate) fn changes_of_names() -> impl Strategy<Value = Operation> {
    use Operation as O;
    let rename_flags = select(&[0, 0, 0, libc::RENAME_NOREPLACE, libc::RENAME_EXCHANGE]);
    prop_oneof![
        6 => (slot(), name(), open_flags(), mode())
            .prop_map(|(slot, path, flags, mode)| O::Open { slot, path, flags, mode }),
        4 => (name(), name(), rename_flags).prop_map(|(from, to, flags)| O::Rename { from, to, flags }),
        3 => (name(), any::<bool>()).prop_map(|(path, directory)| O::Remove { path, directory }),
        2 => (name(), mode()).prop_map(|(path, mode)| O::MakeDirectory { path, mode }),
        1 => (name(), mode()).prop_map(|(path, mode)| O::MakePipe { path, mode }),
        2 => (name(), name()).prop_map(|(from, to)| O::Link { from, to }),
        1 => (name(), name()).prop_map(|(target, path)| O::Symlink { target, path }),
        1 => (slot(), name()).prop_map(|(slot, path)| O::LinkSlot { slot, path }),
    ]
}

/// What changes files, or tries to.
pub(crate) fn changes_of_files() -> impl Strategy<Value = Operation> {
    use Operation as O;
    let id = || select(&[None, Some(0), Some(7)]);
    prop_oneof![
        6 => (slot(), name(), open_flags(), mode())
            .prop_map(|(slot, path, flags, mode)| O::Open { slot, path, flags, mode }),
        5 => (slot(), proptest::option::of(size()), length(), any::<u8>())
            .prop_map(|(slot, offset, len, byte)| O::WriteSlot { slot, offset, len, byte }),
        2 => (slot(), length(), length(), any::<u8>())
            .prop_map(|(slot, offset, len, byte)| O::MapWriteSlot { slot, offset, len, byte }),
        2 => (slot(), size()).prop_map(|(slot, len)| O::TruncateSlot { slot, len }),
        2 => (slot(), allocation(), size(), size())
            .prop_map(|(slot, flags, offset, len)| O::AllocateSlot { slot, flags, offset, len }),
        2 => (slot(), size(), slot(), size(), length()).prop_map(|(from, from_offset, to, to_offset, len)| {
            O::CopySlot { from, from_offset, to, to_offset, len }
        }),
        1 => (name(), size()).prop_map(|(path, len)| O::Truncate { path, len }),
        2 => (name(), mode()).prop_map(|(path, mode)| O::ChangeMode { path, mode }),
        1 => (name(), id(), id()).prop_map(|(path, uid, gid)| O::ChangeOwner { path, uid, gid }),
        1 => (name(), select(&[0, 1, 1_234_567_890])).prop_map(|(path, mtime_s)| O::ChangeTime { path, mtime_s }),
        2 => (name(), select(&ATTRIBUTES), vec(any::<u8>(), 0..20), 0..3_u32)
            .prop_map(|(path, name, value, flags)| O::SetAttribute { path, name, value, flags }),
        1 => (name(), select(&ATTRIBUTES)).prop_map(|(path, name)| O::RemoveAttribute { path, name }),
    ]
}

fn name() -> impl Strategy<Value = Name> {
    let long = |len: usize| Just("n".repeat(len));
    prop_oneof![
        12 => select(&GIVEN).prop_map(str::to_owned),
        8 => select(&FRESH).prop_map(str::to_owned),
        2 => select(&ODD).prop_map(str::to_owned),
        1 => prop_oneof![long(LONGEST_NAME_BYTES), long(LONGEST_NAME_BYTES + 1)],
    ]
}

fn slot() -> impl Strategy<Value = usize> {
    0..SLOTS
}

fn size() -> impl Strategy<Value = u64> {
    prop_oneof![2 => select(&SIZES), 1 => 0..300_000_u64]
}

fn length() -> impl Strategy<Value = usize> {
    size().prop_map(|size| usize::try_from(size).unwrap_or(0))
}

fn mode() -> impl Strategy<Value = u32> {
    select(&[0o644, 0o755, 0o600, 0o444, 0o000, 0o4755, 0o2755, 0o1777])
}

fn open_flags() -> impl Strategy<Value = u32> {
    let access = select(&[O_RDWR, O_RDWR, O_WRONLY]);
    let more = select(&[
        0,
        0,
        O_CREAT,
        O_CREAT,
        O_CREAT | O_EXCL,
        O_TRUNC,
        O_APPEND,
        O_APPEND | O_CREAT,
        O_TMPFILE,
    ]);
    (access, more).prop_map(|(access, more)| (access | more).cast_unsigned())
}

fn allocation() -> impl Strategy<Value = u32> {
    let flags = [
        0,
        libc::FALLOC_FL_KEEP_SIZE,
        libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
        libc::FALLOC_FL_ZERO_RANGE,
        libc::FALLOC_FL_COLLAPSE_RANGE,
    ];
    select(flags.map(i32::cast_unsigned).to_vec())
}
