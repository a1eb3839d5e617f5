//! The system calls by which a program changes files or mounts, what each of them names, and the filter that stops at them.

use std::ffi::c_long;

use libc::{c_uint, sock_filter};

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Makes a file, or empties one.
    Create,
    /// Changes the bytes or the length of a file.
    Write,
    /// Changes the times, the mode, the owner or the attributes of a file.
    Mark,
    /// Makes what was written durable.
    Sync,
    /// Gives a file another name.
    Rename,
    /// Gives a file one more name, or makes a symlink.
    Link,
    /// Removes a name.
    Remove,
    /// Makes a directory.
    Directory,
    /// Changes what is mounted.
    Mount,
    /// Starts a process or a thread.
    Start,
}

/// Where a call says which file it is about.
#[derive(Clone, Copy)]
pub(super) enum Operand {
    /// The argument with this number is a descriptor.
    Descriptor(usize),
    /// The argument with this number is a path.
    Path(usize),
    /// The argument with this number is the descriptor of a directory, and the next a path from there.
    At(usize),
    /// It names no file.
    Nothing,
}

/// A system call that is a step.
pub(super) struct Call {
    number: c_long,
    pub(super) kind: Kind,
    pub(super) operand: Operand,
    /// Which argument says, of a way to open a file, whether it makes or empties one.
    flags: Option<usize>,
}

const fn call(number: c_long, kind: Kind, operand: Operand) -> Call {
    Call {
        number,
        kind,
        operand,
        flags: None,
    }
}

const fn opening(number: c_long, operand: Operand, flags: usize) -> Call {
    Call {
        flags: Some(flags),
        ..call(number, Kind::Create, operand)
    }
}

/// Those of every machine that Linux runs on. A step names what it leaves behind: of a rename and of a link the new name.
const CALLS: [Call; 39] = {
    use Kind::{Create, Directory, Link, Mark, Mount, Remove, Rename, Start, Sync, Write};
    use Operand::{At, Descriptor, Nothing, Path};
    [
        opening(libc::SYS_openat, At(0), 2),
        call(libc::SYS_mknodat, Create, At(0)),
        call(libc::SYS_write, Write, Descriptor(0)),
        call(libc::SYS_writev, Write, Descriptor(0)),
        call(libc::SYS_pwrite64, Write, Descriptor(0)),
        call(libc::SYS_pwritev, Write, Descriptor(0)),
        call(libc::SYS_pwritev2, Write, Descriptor(0)),
        call(libc::SYS_sendfile, Write, Descriptor(0)),
        call(libc::SYS_copy_file_range, Write, Descriptor(2)),
        call(libc::SYS_ftruncate, Write, Descriptor(0)),
        call(libc::SYS_fallocate, Write, Descriptor(0)),
        call(libc::SYS_truncate, Write, Path(0)),
        call(libc::SYS_fchmod, Mark, Descriptor(0)),
        call(libc::SYS_fchown, Mark, Descriptor(0)),
        call(libc::SYS_fsetxattr, Mark, Descriptor(0)),
        call(libc::SYS_setxattr, Mark, Path(0)),
        call(libc::SYS_lsetxattr, Mark, Path(0)),
        call(libc::SYS_fchmodat, Mark, At(0)),
        call(libc::SYS_fchownat, Mark, At(0)),
        call(libc::SYS_utimensat, Mark, At(0)),
        call(libc::SYS_fsync, Sync, Descriptor(0)),
        call(libc::SYS_fdatasync, Sync, Descriptor(0)),
        call(libc::SYS_sync_file_range, Sync, Descriptor(0)),
        call(libc::SYS_syncfs, Sync, Descriptor(0)),
        call(libc::SYS_renameat, Rename, At(2)),
        call(libc::SYS_renameat2, Rename, At(2)),
        call(libc::SYS_linkat, Link, At(2)),
        call(libc::SYS_symlinkat, Link, At(1)),
        call(libc::SYS_unlinkat, Remove, At(0)),
        call(libc::SYS_mkdirat, Directory, At(0)),
        call(libc::SYS_mount, Mount, Path(1)),
        call(libc::SYS_umount2, Mount, Path(0)),
        call(libc::SYS_open_tree, Mount, At(0)),
        call(libc::SYS_move_mount, Mount, At(2)),
        call(libc::SYS_mount_setattr, Mount, At(0)),
        call(libc::SYS_fsmount, Mount, Nothing),
        call(libc::SYS_unshare, Mount, Nothing),
        call(libc::SYS_clone, Start, Nothing),
        call(libc::SYS_clone3, Start, Nothing),
    ]
};

/// Those that are older than the others: newer machines have none of them (include/uapi/asm-generic/unistd.h).
#[cfg(target_arch = "x86_64")]
const OLDER_CALLS: [Call; 13] = {
    use Kind::{Create, Directory, Link, Mark, Remove, Rename, Start};
    use Operand::{Nothing, Path};
    [
        opening(libc::SYS_open, Path(0), 1),
        call(libc::SYS_creat, Create, Path(0)),
        call(libc::SYS_chmod, Mark, Path(0)),
        call(libc::SYS_chown, Mark, Path(0)),
        call(libc::SYS_lchown, Mark, Path(0)),
        call(libc::SYS_rename, Rename, Path(1)),
        call(libc::SYS_link, Link, Path(1)),
        call(libc::SYS_symlink, Link, Path(1)),
        call(libc::SYS_unlink, Remove, Path(0)),
        call(libc::SYS_rmdir, Remove, Path(0)),
        call(libc::SYS_mkdir, Directory, Path(0)),
        call(libc::SYS_fork, Start, Nothing),
        call(libc::SYS_vfork, Start, Nothing),
    ]
};

#[cfg(not(target_arch = "x86_64"))]
const OLDER_CALLS: [Call; 0] = [];

/// Of which machine the numbers are, as `linux/audit.h` has it: `AUDIT_ARCH_X86_64`, `AUDIT_ARCH_AARCH64`.
#[cfg(target_arch = "x86_64")]
const MACHINE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const MACHINE: u32 = 0xc000_00b7;

fn all() -> impl Iterator<Item = &'static Call> {
    CALLS.iter().chain(&OLDER_CALLS)
}

/// The call with this number.
pub(super) fn find(number: c_long) -> Option<&'static Call> {
    all().find(|call| call.number == number)
}

/// A program of the kernel's that stops at each of them, and of the ways to open a file only at those that make or empty one
/// (seccomp(2), Documentation/userspace-api/seccomp_filter.rst).
pub(super) fn filter() -> Vec<sock_filter> {
    const MAKES: i32 = libc::O_CREAT | libc::O_TRUNC | (libc::O_TMPFILE & !libc::O_DIRECTORY);
    let load = |offset: usize| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset);
    let argument = |number: usize| std::mem::offset_of!(libc::seccomp_data, args) + 8 * number;
    let allow = answer(libc::SECCOMP_RET_ALLOW);
    let stop = answer(libc::SECCOMP_RET_USER_NOTIF);
    let mut program = vec![
        load(std::mem::offset_of!(libc::seccomp_data, arch)),
        jump(libc::BPF_JEQ, MACHINE, 1, 0),
        allow,
        load(std::mem::offset_of!(libc::seccomp_data, nr)),
    ];
    for call in all() {
        let number = c_uint::try_from(call.number).expect("calls have small numbers");
        match call.flags.map(argument) {
            Some(flags) => program.extend([
                jump(libc::BPF_JEQ, number, 0, 4),
                load(flags),
                jump(libc::BPF_JSET, MAKES.cast_unsigned(), 1, 0),
                allow,
                stop,
            ]),
            None => program.extend([jump(libc::BPF_JEQ, number, 0, 1), stop]),
        }
    }
    program.push(allow);
    program
}

fn answer(action: c_uint) -> sock_filter {
    sock_filter {
        code: u16::try_from(libc::BPF_RET | libc::BPF_K).expect("codes are small"),
        jt: 0,
        jf: 0,
        k: action,
    }
}

fn statement(code: c_uint, offset: usize) -> sock_filter {
    sock_filter {
        code: u16::try_from(code).expect("codes are small"),
        jt: 0,
        jf: 0,
        k: u32::try_from(offset).expect("offsets are small"),
    }
}

/// Compares what was loaded, and goes on so many places further.
fn jump(how: c_uint, with: u32, if_so: u8, if_not: u8) -> sock_filter {
    sock_filter {
        code: u16::try_from(libc::BPF_JMP | how | libc::BPF_K).expect("codes are small"),
        jt: if_so,
        jf: if_not,
        k: with,
    }
}
