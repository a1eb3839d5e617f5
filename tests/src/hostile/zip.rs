//! Zips written field by field, whose two directories may disagree.

/// A member of a zip, and how its headers lie. Content is stored as it is.
#[derive(Clone)]
pub(super) struct Member {
    pub(super) name: Vec<u8>,
    pub(super) content: Vec<u8>,
    /// As the local header has it, where it differs.
    pub(super) local_name: Option<Vec<u8>>,
    /// What both headers say that the content has, where that is a lie.
    pub(super) size: Option<u32>,
    /// What the local header says, where it differs.
    pub(super) local_size: Option<u32>,
    pub(super) crc: Option<u32>,
    pub(super) flags: u16,
    pub(super) method: u16,
    /// The permissions and type of Unix.
    pub(super) mode: u32,
    /// Extra fields of the central header.
    pub(super) extra: Vec<u8>,
    /// Whether the local header is left out: the directory says that it is where that of the member before is.
    pub(super) is_overlapping: bool,
    /// Whether the directory does not list it.
    pub(super) is_unlisted: bool,
}

impl Member {
    pub(super) fn new(name: &str, content: impl AsRef<[u8]>) -> Self {
        Self {
            name: name.into(),
            content: content.as_ref().to_vec(),
            local_name: None,
            size: None,
            local_size: None,
            crc: None,
            flags: 0,
            method: 0,
            mode: 0o100_644,
            extra: Vec::new(),
            is_overlapping: false,
            is_unlisted: false,
        }
    }

    /// The fields that both headers have, from the flags to the sizes.
    fn common(&self, size: u32) -> Vec<u8> {
        let crc = self.crc.unwrap_or_else(|| crc32(&self.content));
        let mut fields = Vec::new();
        for field in [self.flags, self.method, 0, 0x21] {
            fields.extend(field.to_le_bytes());
        }
        for field in [crc, size, size] {
            fields.extend(field.to_le_bytes());
        }
        fields
    }
}

/// The zip.
pub(super) fn zip(members: &[Member]) -> Vec<u8> {
    let (mut bytes, mut directory, mut listed) = (Vec::new(), Vec::new(), 0_u16);
    let mut start = 0_u32;
    for member in members {
        let true_size = u32::try_from(member.content.len()).unwrap();
        let size = member.size.unwrap_or(true_size);
        if !member.is_overlapping {
            start = u32::try_from(bytes.len()).unwrap();
            let name = member.local_name.as_ref().unwrap_or(&member.name);
            bytes.extend(b"PK\x03\x04\x14\x00");
            bytes.extend(member.common(member.local_size.unwrap_or(size)));
            bytes.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
            bytes.extend([0; 2]);
            bytes.extend(name);
            bytes.extend(&member.content);
        }
        if member.is_unlisted {
            continue;
        }
        listed += 1;
        directory.extend(b"PK\x01\x02\x14\x03\x14\x00");
        directory.extend(member.common(size));
        directory.extend(u16::try_from(member.name.len()).unwrap().to_le_bytes());
        directory.extend(u16::try_from(member.extra.len()).unwrap().to_le_bytes());
        directory.extend([0; 6]);
        directory.extend((member.mode << 16).to_le_bytes());
        directory.extend(start.to_le_bytes());
        directory.extend(&member.name);
        directory.extend(&member.extra);
    }
    let at = u32::try_from(bytes.len()).unwrap();
    bytes.extend(&directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend([listed.to_le_bytes(), listed.to_le_bytes()].concat());
    bytes.extend(u32::try_from(directory.len()).unwrap().to_le_bytes());
    bytes.extend(at.to_le_bytes());
    bytes.extend([0; 2]);
    bytes
}

/// The sum of zip (ISO 3309).
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 * (crc & 1)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_lie_is_a_zip() {
        let bytes = zip(&[Member::new("a", "first"), Member::new("b/c", "second")]);
        let mut read = ::zip::ZipArchive::new(std::io::Cursor::new(bytes)).unwrap();
        read.validate_header_consistency().unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut read.by_name("b/c").unwrap(), &mut text).unwrap();
        assert_eq!(text, "second");
    }
}
