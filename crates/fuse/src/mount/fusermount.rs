//! Mounting and unmounting for ordinary users: `fusermount3` of libfuse, which is installed setuid root.
//!
//! It opens `/dev/fuse`, mounts, and sends the descriptor over the socket whose number stands in `_FUSE_COMMFD`.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};

use crate::mount::{self, MountError, MountOptions};
use crate::mountinfo;
use crate::process;

const PROGRAM: &str = "fusermount3";

/// Mounts on `path` for this user.
pub(crate) fn mount(path: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    // The helper opens the device as this user: say first what it would say less clearly.
    drop(mount::open_device()?);
    let system = |action| {
        move |source| MountError::System {
            action,
            path: path.to_owned(),
            source,
        }
    };
    let (ours, theirs) = UnixStream::pair().map_err(system("make a socket for mounting on"))?;
    let mut words = format!(
        "ro,nosuid,nodev,noatime,default_permissions,fsname={},subtype=envfs",
        mountinfo::source(&options.signature)
    );
    if options.allow_other {
        words.push_str(",allow_other");
    }
    let mut command = Command::new(PROGRAM);
    command.arg("-o").arg(words).arg("--").arg(path);
    // The socket becomes the helper's descriptor 0.
    command
        .env("_FUSE_COMMFD", "0")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => MountError::NoHelper,
        _ => system("start fusermount3 for")(error),
    })?;
    // Our copy of its end would keep us waiting for ever if it dies.
    drop(command);
    let received = receive_descriptor(&ours);
    let output = child.wait_with_output().map_err(system("wait for fusermount3 on"))?;
    match received {
        Ok(Some(device)) if output.status.success() => Ok(device),
        _ => Err(MountError::Helper {
            path: path.to_owned(),
            message: said(&output),
        }),
    }
}

/// Whether the helper is installed.
pub(crate) fn check() -> Result<(), MountError> {
    let ran = Command::new(PROGRAM).arg("--version").stdin(Stdio::null()).output();
    match ran {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(MountError::NoHelper),
        _ => Ok(()),
    }
}

/// Unmounts `path` for this user. The inner result is what the helper said against it.
pub(crate) fn unmount(path: &Path, lazy: bool) -> io::Result<Result<(), String>> {
    let mut command = Command::new(PROGRAM);
    command.arg("-u").args(lazy.then_some("-z")).arg("--").arg(path);
    let output = command.stdin(Stdio::null()).output()?;
    Ok(if output.status.success() {
        Ok(())
    } else {
        Err(said(&output))
    })
}

/// Sends `descriptor`, with one byte that says so.
pub(crate) fn send_descriptor(socket: &UnixStream, descriptor: &OwnedFd) -> io::Result<()> {
    let numbers = [descriptor.as_raw_fd()];
    let message = [ControlMessage::ScmRights(&numbers)];
    sendmsg::<UnixAddr>(
        socket.as_raw_fd(),
        &[IoSlice::new(b"+")],
        &message,
        MsgFlags::empty(),
        None,
    )?;
    Ok(())
}

/// Receives a descriptor; none when the other side has closed the socket or sent only bytes.
pub(crate) fn receive_descriptor(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut space = cmsg_space!([std::os::fd::RawFd; 1]);
    let message = loop {
        match recvmsg::<UnixAddr>(
            socket.as_raw_fd(),
            &mut parts,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        ) {
            Err(Errno::EINTR) => {}
            result => break result?,
        }
    };
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control
            && let Some(&number) = numbers.first()
        {
            return Ok(Some(process::received_descriptor(number)));
        }
    }
    Ok(None)
}

fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<_> = text
        .lines()
        .map(|line| line.trim_start_matches("fusermount3: ").trim())
        .collect();
    match lines.join("; ") {
        said if said.is_empty() => format!("it ended with {}", output.status),
        said if said.contains("user_allow_other") => format!("{said} (write that line into the file as root)"),
        said => said,
    }
}
