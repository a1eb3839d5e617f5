//! The prefix of an installation, taken out of its files again: what an installer wrote in the place of a placeholder
//! becomes the placeholder (CEP 34, `prefix_placeholder` and `file_mode`).
//!
//! Whoever knows the digest that the file had before checks the result by it. Knows bytes and nothing else.

use envfs_store::placeholder::is_whole_path;
use memchr::memmem;

/// What stands for the prefix in texts whose placeholder nobody knows. The same for all imports, so that the same file of two
/// installations is one object.
pub(super) const PLACEHOLDER: &str = "/opt/envfs-imported";

/// `content` with every `installed` that is a whole path replaced by `placeholder`; nothing where there is none.
pub(super) fn text(content: &[u8], installed: &str, placeholder: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(content.len());
    let mut end = 0;
    for at in memmem::find_iter(content, installed) {
        let after = at + installed.len();
        if is_whole_path(content, after) {
            out.extend(&content[end..at]);
            out.extend(placeholder.as_bytes());
            end = after;
        }
    }
    if end == 0 {
        return None;
    }
    out.extend(&content[end..]);
    Some(out)
}

/// A binary as it was before: in each C string that names `installed` the placeholder stands again, in the room that
/// replacing it had filled with NUL. Nothing where that room is not there.
pub(super) fn binary(content: &[u8], installed: &str, placeholder: &str) -> Option<Vec<u8>> {
    let grows_by = placeholder.len().checked_sub(installed.len())?;
    let mut out = Vec::with_capacity(content.len());
    let mut end = 0;
    while let Some(found) = memmem::find(&content[end..], installed.as_bytes()) {
        let start = end + found;
        out.extend(&content[end..start]);
        let string_end = content[start..]
            .iter()
            .position(|&byte| byte == 0)
            .map_or(content.len(), |nul| start + nul);
        let string = &content[start..string_end];
        let count = memmem::find_iter(string, installed).count();
        let mut from = 0;
        for at in memmem::find_iter(string, installed) {
            out.extend(&string[from..at]);
            out.extend(placeholder.as_bytes());
            from = at + installed.len();
        }
        out.extend(&string[from..]);
        end = string_end + grows_by * count;
        if content.get(string_end..end)?.iter().any(|&byte| byte != 0) {
            return None;
        }
    }
    out.extend(&content[end..]);
    Some(out)
}

/// A program whose run path is the library directory of `prefix` (`DT_RUNPATH`, ld.so(8)), with a path that starts at the program
/// itself in its place. Nothing where there is none, or no room for it.
pub(super) fn run_path(content: &[u8], prefix: &str) -> Option<Vec<u8>> {
    let old = [b"\0", prefix.as_bytes(), b"/lib\0"].concat();
    let new = b"\0$ORIGIN/../lib\0";
    if !content.starts_with(b"\x7fELF") || new.len() > old.len() {
        return None;
    }
    let at = memmem::find(content, &old)?;
    let mut out = content.to_owned();
    out[at..at + old.len()].fill(0);
    out[at..at + new.len()].copy_from_slice(new);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_name_the_placeholder_again_but_not_in_longer_names() {
        let restored = text(b"#!/e/x/bin/python\na=/e/x b=/e/x-2", "/e/x", "/ph").unwrap();
        assert_eq!(restored, b"#!/ph/bin/python\na=/ph b=/e/x-2");
        assert_eq!(text(b"nothing /e/xy", "/e/x", "/ph"), None);
    }

    #[test]
    fn binaries_get_their_room_back() {
        // `/ph/longer` was 10 bytes, `/e` is 2: 8 bytes of NUL were filled in for each.
        let original = b"\x7fELF/ph/longer/lib:/ph/longer/bin\0rest\0";
        let mut installed = b"\x7fELF/e/lib:/e/bin\0".to_vec();
        installed.extend([0; 16]);
        installed.extend(b"rest\0");
        assert_eq!(binary(&installed, "/e", "/ph/longer").unwrap(), original);
        assert_eq!(binary(b"x/e/lib\0ab", "/e", "/ph/longer"), None);
        assert_eq!(binary(b"x/e/lib\0", "/e", "/ph/longer"), None);
        assert_eq!(binary(b"x", "/longer", "/ph"), None);
        assert_eq!(binary(b"none\0", "/e", "/ph/longer").unwrap(), b"none\0");
    }

    #[test]
    fn programs_find_their_libraries_from_where_they_are() {
        let program = b"\x7fELF\0/opt/some/python/lib\0next\0";
        let expected = b"\x7fELF\0$ORIGIN/../lib\0\0\0\0\0\0\0next\0";
        assert_eq!(run_path(program, "/opt/some/python").unwrap(), expected);
        assert_eq!(run_path(program, "/opt/other"), None);
        assert_eq!(run_path(b"\x7fELF\0/p/lib\0", "/p"), None);
        assert_eq!(run_path(b"text /opt/some/python/lib", "/opt/some/python"), None);
    }
}
