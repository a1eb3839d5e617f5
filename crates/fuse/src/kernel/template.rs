//! Images of what looks different at each prefix, kept for all prefixes of one length: what differs between two of them is the
//! prefix itself, at the same places. So a mount copies one and writes its prefix into it, and opens no pack.
//!
//! Whether that is so is not believed but seen: a template is made of the images at two prefixes, and only if each is the
//! other with the prefix replaced.
//!
//! ```text
//! 0    "envfstp1"
//! 8    u32 bytes of a prefix   u32 places   u32 objects   u32 bytes of the image, a multiple of 4096, or 0: there is no template
//! 24   per place: u32 offset in the image; per object: its digest, 32 bytes
//! next multiple of 4096: the image
//! ```

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use envfs_store::Digest;

const MAGIC: [u8; 8] = *b"envfstp1";
const HEAD_BYTES: usize = 24;
const DIGEST_BYTES: usize = 32;
const BLOCK_BYTES: usize = 4096;

/// No table is longer, whoever wrote it.
const MAX_TABLE_BYTES: usize = 1024 * 1024;

/// An image that lacks its prefix.
#[derive(Debug)]
pub(crate) struct Template {
    prefix_bytes: usize,
    /// Where the prefix stands in the image.
    places: Vec<u64>,
    /// The objects that the image points to, in their order.
    pub(super) objects: Vec<Digest>,
    /// Where the image is in the file.
    image_at: u64,
    image_bytes: u64,
}

/// Whether nothing but its length says what files look like at `prefix`: no path of a first line is quoted, taken apart, or
/// taken for an interpreter.
pub(super) fn is_plain(prefix: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/_-.".contains(&byte);
    let name = prefix.rsplit('/').next().unwrap_or_default();
    prefix.len() > 1 && prefix.bytes().all(is_plain) && !name.starts_with("python")
}

/// Another plain prefix of the same length, which has another letter at each place.
pub(super) fn counterpart(prefix: &str) -> String {
    let other = prefix
        .chars()
        .skip(1)
        .map(|letter| if letter == 'x' { 'y' } else { 'x' });
    std::iter::once('/').chain(other).collect()
}

/// The file of a template, from the same image at a prefix and at its [`counterpart`]: one that says that there is none, if the
/// prefix is not all that differs.
pub(super) fn write(prefix: &str, image: &[u8], other_image: &[u8], objects: &[Digest]) -> Vec<u8> {
    let (needle, mut expected, mut places) = (prefix.as_bytes(), image.to_vec(), Vec::new());
    let other = counterpart(prefix);
    let mut at = 0;
    while let Some(found) = image[at..].windows(needle.len()).position(|window| window == needle) {
        at += found;
        expected[at..at + needle.len()].copy_from_slice(other.as_bytes());
        places.push(at);
        at += needle.len();
    }
    let is_all = expected == other_image && image.len().is_multiple_of(BLOCK_BYTES);
    let (places, objects, image): (&[usize], &[Digest], &[u8]) = if is_all {
        (&places, objects, image)
    } else {
        (&[], &[], &[])
    };
    let mut file = MAGIC.to_vec();
    let mut number = |number: usize| file.extend(u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
    let counts = [prefix.len(), places.len(), objects.len(), image.len()];
    counts.into_iter().chain(places.iter().copied()).for_each(&mut number);
    objects.iter().for_each(|object| file.extend(object.as_bytes()));
    file.resize(file.len().next_multiple_of(BLOCK_BYTES), 0);
    file.extend(image);
    file
}

impl Template {
    /// Reads what [`write`] has written, up to the image; none if that says so, or it is damaged.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn read(file: &mut File) -> io::Result<Option<Self>> {
        let file_bytes = file.metadata()?.len();
        Self::parse(file, file_bytes)
    }

    /// The same from the start of a file of so many bytes.
    pub(crate) fn parse(file: &mut impl Read, file_bytes: u64) -> io::Result<Option<Self>> {
        let mut table = vec![0; BLOCK_BYTES];
        file.read_exact(&mut table)?;
        let number = |table: &[u8], at: usize| {
            let bytes = table.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u32::from_le_bytes) as usize
        };
        let [prefix_bytes, place_count, object_count, image_bytes] = [8, 12, 16, 20].map(|at| number(&table, at));
        let objects_at = HEAD_BYTES.saturating_add(place_count.saturating_mul(4));
        let end = objects_at.saturating_add(object_count.saturating_mul(DIGEST_BYTES));
        let image_at = end.next_multiple_of(BLOCK_BYTES);
        if table[..8] != MAGIC
            || image_bytes == 0
            || end > MAX_TABLE_BYTES
            || file_bytes < (image_at + image_bytes) as u64
        {
            return Ok(None);
        }
        table.resize(image_at, 0);
        file.read_exact(&mut table[BLOCK_BYTES..])?;
        let places: Vec<_> = (0..place_count)
            .map(|index| number(&table, HEAD_BYTES + 4 * index) as u64)
            .collect();
        let objects = table[objects_at..end].as_chunks::<DIGEST_BYTES>().0;
        let is_inside = |&place: &u64| place + prefix_bytes as u64 <= image_bytes as u64;
        Ok(places.iter().all(is_inside).then(|| Self {
            prefix_bytes,
            places,
            objects: objects.iter().map(|bytes| Digest::from_bytes(*bytes)).collect(),
            image_at: image_at as u64,
            image_bytes: image_bytes as u64,
        }))
    }

    /// Writes the image at `prefix` into `into`, from the file that this was read from.
    ///
    /// # Errors
    /// When the prefix has another length, the file cannot be read or `into` not written.
    pub(super) fn fill(&self, file: &mut File, prefix: &str, into: &mut File) -> io::Result<()> {
        if prefix.len() != self.prefix_bytes {
            return Err(io::Error::other("a template for prefixes of another length"));
        }
        file.seek(SeekFrom::Start(self.image_at))?;
        let copied = io::copy(&mut file.take(self.image_bytes), into)?;
        if copied < self.image_bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut places = self.places.iter();
        places.try_for_each(|&place| into.write_all_at(prefix.as_bytes(), place))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn image(prefix: &str, text: &str) -> Vec<u8> {
        let mut image = text.replace('@', prefix).into_bytes();
        image.resize(2 * BLOCK_BYTES, 0);
        image
    }

    fn template(text: &str, other_text: &str) -> (File, Option<Template>) {
        let (one, other) = ("/envs/x/one", counterpart("/envs/x/one"));
        let mut file = tempfile::tempfile().unwrap();
        let written = write(
            one,
            &image(one, text),
            &image(&other, other_text),
            &[Digest::of(b"object")],
        );
        file.write_all(&written).unwrap();
        file.write_all(&[7; 100]).unwrap();
        file.rewind().unwrap();
        let template = Template::read(&mut file).unwrap();
        (file, template)
    }

    #[test]
    fn a_template_gives_the_image_of_any_prefix_of_its_length() {
        let text = "#!@/bin/python\nP=@:@/lib\0\0and so on";
        let (mut file, template) = template(text, text);
        let template = template.unwrap();
        assert_eq!(
            (template.places.len(), &template.objects[..]),
            (3, &[Digest::of(b"object")][..])
        );
        for prefix in ["/envs/x/two", "/xxxxxxxxxx"] {
            let mut into = tempfile::tempfile().unwrap();
            template.fill(&mut file, prefix, &mut into).unwrap();
            into.rewind().unwrap();
            let mut filled = Vec::new();
            into.read_to_end(&mut filled).unwrap();
            assert_eq!(filled, image(prefix, text));
        }
        assert!(
            template
                .fill(&mut file, "/short", &mut tempfile::tempfile().unwrap())
                .is_err()
        );
    }

    #[test]
    fn where_more_than_the_prefix_differs_there_is_none() {
        assert!(template("@ digest 1", "@ digest 2").1.is_none());
        // What looks like the prefix, and is not.
        assert!(template("@ and /envs/x/one", "@ and /envs/x/one").1.is_none());
    }

    #[test]
    fn only_plain_prefixes_have_templates() {
        assert!(is_plain("/envs/x-1_2.3"));
        assert!(is_plain(&counterpart("/xyz/x")));
        assert_ne!(counterpart("/xyz"), counterpart("/yxz"));
        for prefix in ["", "/", "/a b", "/a\tb", "/ä", "/a\"b", "/envs/python3.11"] {
            assert!(!is_plain(prefix), "{prefix}");
        }
    }

    #[test]
    fn what_is_damaged_is_no_template() {
        let text = "@ @ @";
        let (one, other) = ("/envs/x/one", counterpart("/envs/x/one"));
        let whole = write(one, &image(one, text), &image(&other, text), &[]);
        for (at, byte) in [(0, b'E'), (13, 255), (15, 255), (19, 255), (22, 255), (27, 255)] {
            let mut damaged = whole.clone();
            damaged[at] = byte;
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&damaged).unwrap();
            file.rewind().unwrap();
            assert!(Template::read(&mut file).unwrap().is_none(), "{at}");
        }
    }
}
