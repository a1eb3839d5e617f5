//! The outer shell of an archive: `.conda` (a zip of zstd tars, CEP 35) or `.tar.bz2`. Tells them apart by their first
//! bytes, because file names lie.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};

use super::ArchiveError;
use crate::limits::Meter;
use crate::zip_end;

/// Buffers between the file, the decompressor and the tar reader.
const BUFFER_BYTES: usize = 256 * 1024;

/// A zstd frame that needs a larger window than this is refused: it would take that much memory. `conda` packages at the
/// highest level use 128 MiB (2^27).
const MAX_WINDOW_LOG: u32 = 27;

/// A `.conda` holds `metadata.json` and two tars (CEP 35), and may hold a signature more.
const MAX_MEMBERS: u64 = 64;

/// Calls `read` with every tar in `file`, payload before metadata. All that is unpacked goes through `meter`.
pub(super) fn for_each_tar(
    mut file: File,
    name: &str,
    meter: &Meter,
    read: &mut dyn FnMut(&mut dyn Read) -> Result<(), ArchiveError>,
) -> Result<(), ArchiveError> {
    let unreadable = |source| unreadable(name, source);
    let mut magic = [0; 4];
    file.rewind().map_err(unreadable)?;
    file.read_exact(&mut magic).map_err(unreadable)?;
    file.rewind().map_err(unreadable)?;
    match &magic {
        b"PK\x03\x04" => for_each_member(file, name, meter, read),
        [b'B', b'Z', b'h', _] => {
            let decoder = bzip2::read::MultiBzDecoder::new(BufReader::with_capacity(BUFFER_BYTES, file));
            read_whole(meter.metered(decoder), name, read)
        }
        _ => Err(ArchiveError::Malformed {
            archive: name.to_owned(),
            what: "it is neither a .conda (zip) nor a .tar.bz2 (bzip2) file".to_owned(),
        }),
    }
}

fn for_each_member(
    file: File,
    name: &str,
    meter: &Meter,
    read: &mut dyn FnMut(&mut dyn Read) -> Result<(), ArchiveError>,
) -> Result<(), ArchiveError> {
    let malformed = |what: String| ArchiveError::Malformed {
        archive: name.to_owned(),
        what,
    };
    let members = zip_end::members(&file).map_err(|source| unreadable(name, source))?;
    if members.map_err(malformed)? > MAX_MEMBERS {
        return Err(malformed(format!(
            "its zip holds more than {MAX_MEMBERS} members; three are usual"
        )));
    }
    let mut zip = zip::ZipArchive::new(BufReader::with_capacity(BUFFER_BYTES, file))
        .map_err(|error| malformed(format!("its zip directory: {error}")))?;
    zip.validate_header_consistency()
        .map_err(|error| malformed(format!("its zip directory: {error}")))?;
    for part in ["pkg-", "info-"] {
        let members: Vec<usize> = (0..zip.len())
            .filter(|&index| {
                zip.name_for_index(index)
                    .and_then(Result::ok)
                    .is_some_and(|name| name.starts_with(part) && name.ends_with(".tar.zst"))
            })
            .collect();
        let &[member] = members.as_slice() else {
            return Err(malformed(format!(
                "it holds {} members `{part}*.tar.zst` instead of one",
                members.len()
            )));
        };
        let member = zip
            .by_index(member)
            .map_err(|error| malformed(format!("its zip directory: {error}")))?;
        if member.compression() != zip::CompressionMethod::Stored {
            return Err(malformed(format!(
                "its member `{part}*.tar.zst` is compressed a second time"
            )));
        }
        let mut decoder = zstd::stream::read::Decoder::with_buffer(BufReader::with_capacity(BUFFER_BYTES, member))
            .map_err(|source| unreadable(name, source))?;
        decoder
            .window_log_max(MAX_WINDOW_LOG)
            .map_err(|source| unreadable(name, source))?;
        read_whole(meter.metered(decoder), name, read)?;
    }
    Ok(())
}

/// Reads the tar, and then what is behind it: the decompressors check their sums only at the very end.
fn read_whole(
    decoder: impl Read,
    name: &str,
    read: &mut dyn FnMut(&mut dyn Read) -> Result<(), ArchiveError>,
) -> Result<(), ArchiveError> {
    let mut decoder = BufReader::with_capacity(BUFFER_BYTES, decoder);
    read(&mut decoder)?;
    io::copy(&mut decoder, &mut io::sink()).map_err(|source| unreadable(name, source))?;
    Ok(())
}

fn unreadable(name: &str, source: io::Error) -> ArchiveError {
    ArchiveError::of_io(name, source)
}
