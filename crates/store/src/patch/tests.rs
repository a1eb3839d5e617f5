//! Ranged reads give the same bytes as whole ones, and impossible offsets are errors.

use super::*;
use crate::placeholder::{CString, TextOccurrence};

const OLD: &str = "/old/placeholder";

fn read_all(plan: &Plan, stored: &[u8], chunk: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let mut buffer = vec![0xAA; chunk];
        let len = plan
            .read(out.len() as u64, &mut buffer, |offset, into| {
                let start = usize::try_from(offset).unwrap();
                into.copy_from_slice(stored.get(start..start + into.len()).ok_or("past the end")?);
                Ok::<_, &str>(())
            })
            .unwrap();
        if len == 0 {
            return out;
        }
        out.extend(&buffer[..len]);
    }
}

fn text(shebang: &str, rest: &str) -> (Vec<u8>, Placeholder) {
    let stored = format!("{shebang}{rest}").into_bytes();
    let occurrences = rest
        .match_indices(OLD)
        .map(|(offset, _)| TextOccurrence {
            offset_bytes: (shebang.len() + offset) as u64,
            encoding: Encoding::Utf8,
        })
        .collect();
    let placeholder = Placeholder {
        prefix: OLD.into(),
        occurrences: Occurrences::Text {
            shebang: shebang.into(),
            occurrences,
        },
    };
    (stored, placeholder)
}

#[test]
fn texts_grow_and_shrink() {
    let (stored, placeholder) = text(
        "#!/old/placeholder/bin/python\n",
        "a=/old/placeholder;b=/old/placeholder/x\n",
    );
    for target in ["/n", "/a longer one with spaces in it", OLD] {
        let plan = Plan::new(&placeholder, stored.len() as u64, target).unwrap();
        let whole = read_all(&plan, &stored, 4096);
        assert_eq!(whole.len() as u64, plan.size_bytes());
        assert_eq!(
            size_bytes(&placeholder, stored.len() as u64, target),
            Ok(plan.size_bytes())
        );
        assert!(String::from_utf8_lossy(&whole).ends_with(&format!("a={target};b={target}/x\n")));
        for chunk in [1, 2, 3, 7, 64] {
            assert_eq!(read_all(&plan, &stored, chunk), whole, "in pieces of {chunk}");
        }
    }
}

#[test]
fn binaries_keep_their_length() {
    let stored = b"ELF\0/old/placeholder/lib:/old/placeholder/x\0tail".to_vec();
    let placeholder = Placeholder {
        prefix: OLD.into(),
        occurrences: Occurrences::Binary {
            strings: vec![CString {
                encoding: Encoding::Utf8,
                offsets_bytes: vec![4, 25],
                end_bytes: 43,
            }],
        },
    };
    let plan = Plan::new(&placeholder, stored.len() as u64, "/n").unwrap();
    let mut expected = b"ELF\0/n/lib:/n/x".to_vec();
    expected.resize(43, 0);
    expected.extend(b"\0tail");
    assert_eq!(read_all(&plan, &stored, 5), expected);
    assert_eq!(
        Plan::new(&placeholder, stored.len() as u64, "/old/placeholder2"),
        Err(PatchError::PrefixTooLong {
            target_bytes: 17,
            max_bytes: 16
        })
    );
}

#[test]
fn offsets_that_cannot_be_true_are_errors() {
    let binary = |offsets_bytes, end_bytes| Placeholder {
        prefix: OLD.into(),
        occurrences: Occurrences::Binary {
            strings: vec![CString {
                encoding: Encoding::Utf8,
                offsets_bytes,
                end_bytes,
            }],
        },
    };
    for placeholder in [
        binary(vec![100], 200),
        binary(vec![u64::MAX], u64::MAX),
        binary(vec![20, 4], 40),
        binary(vec![4], 8),
    ] {
        assert_eq!(
            Plan::new(&placeholder, 50, "/n"),
            Err(PatchError::BadOffsets),
            "{placeholder:?}"
        );
    }
    let (_, text) = text("", "/old/placeholder");
    assert_eq!(Plan::new(&text, 3, "/n"), Err(PatchError::BadOffsets));
}
