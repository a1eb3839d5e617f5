//! Hostile wheels, one by one. Each is called `evil-1.0-py3-none-any.whl`.

use std::io::Write;

use super::zip::{self, Member};
use super::{Case, Outcome};
use crate::pypi::base64url;
use sha2::{Digest, Sha256};

const INFO: &str = "evil-1.0.dist-info";

/// Changes the members of a wheel, and maybe its `RECORD`.
type Change = fn(&mut Vec<Member>, &mut String);

/// All of them.
///
/// # Panics
/// When one cannot be made.
#[must_use]
pub fn wheels() -> Vec<Case> {
    let mut all: Vec<Case> = PLACES
        .iter()
        .map(|(what, path, part)| misplaced(what, path, part))
        .collect();
    let changes = MEMBERS.iter().chain(RECORDS).chain(METADATA);
    all.extend(changes.map(|&(what, part, change)| case(what, refused_or_taken(part), change)));
    let mut bomb = case(
        "a bomb, in a wheel",
        Outcome::Refused(vec!["(the limit `unpacked`)", "raise the limit"]),
        |_, _| {},
    );
    bomb.archive = deflated_bomb();
    bomb.options = &["--limit", "unpacked=1MB"];
    all.push(bomb);
    let mut many = case(
        "too many files, in a wheel",
        Outcome::Refused(vec!["it holds more than 3 files"]),
        |_, _| {},
    );
    many.options = &["--limit", "files=3"];
    all.push(many);
    let mut outside = |what, part, change: fn(Vec<u8>) -> Vec<u8>| {
        let honest = case(what, Outcome::Refused(vec![part]), |_, _| {});
        let archive = change(honest.archive);
        all.push(Case { archive, ..honest });
    };
    outside("something behind the zip", "it goes on behind the end", |zip| {
        [zip, b"more".to_vec()].concat()
    });
    outside(
        "a program before the zip of a wheel",
        "is not where its end says",
        |zip| [b"#!/bin/sh\n".to_vec(), zip].concat(),
    );
    outside("a zip that is cut off", "does not end as a zip file does", |mut zip| {
        zip.truncate(zip.len() - 31);
        zip
    });
    all
}

/// What, where a file is, and why it is refused.
const PLACES: &[(&str, &str, &str)] = &[
    (
        "a file above the environment, in a wheel",
        "../evil.py",
        "`../evil.py` has a `..` component",
    ),
    (
        "a file above it by a detour, in a wheel",
        "a/../../evil.py",
        "has a `..` component",
    ),
    (
        "a file at an absolute path, in a wheel",
        "/etc/evil",
        "`/etc/evil` is absolute",
    ),
    ("a path of Windows", "a\\..\\evil.py", "has a backslash"),
    ("an empty name in a path, in a wheel", "a//b", "has an empty component"),
    ("NUL in a name, in a wheel", "a\0b", "holds a NUL byte"),
    (
        "a record of conda",
        "evil-1.0.data/data/conda-meta/history",
        "belongs to the installer",
    ),
    (
        "an interpreter among the scripts",
        "evil-1.0.data/scripts/python3",
        "the Python interpreter",
    ),
    (
        "an interpreter among the data",
        "evil-1.0.data/data/bin/python3.12",
        "the Python interpreter",
    ),
    (
        "a file in the place of another",
        "evil-1.0.data/purelib/evil.py",
        "goes where another file",
    ),
    (
        "a file below a file, in a wheel",
        "evil.py/x",
        "is a file, and a directory to other files",
    ),
    (
        "a second distribution",
        "other-1.dist-info/METADATA",
        "several .dist-info directories",
    ),
    ("an unknown scheme", "evil-1.0.data/stdlib/os.py", "the scheme `stdlib`"),
];

/// What, why it is refused (nothing: it is not), and how the members are changed.
const MEMBERS: &[(&str, &str, Change)] = &[
    ("a symlink", "is a symlink", |members, _| members[0].mode = 0o120_777),
    ("a device", "is no regular file", |members, _| {
        members[0].mode = 0o020_644;
    }),
    ("setuid and setgid bits say nothing", "", |members, _| {
        members[0].mode = 0o106_644;
    }),
    (
        "a name of 256 bytes, in a wheel",
        "longer than 255 bytes",
        |members, _| {
            members.push(Member::new(&"x".repeat(256), ""));
        },
    ),
    ("a path of 4,000 bytes", "more than 3072 bytes", |members, _| {
        members.push(Member::new(&"d/".repeat(2000), ""));
    }),
    ("a name that is said to be UTF-8", "", |members, _| {
        members[0].flags = 0x800;
    }),
    (
        "a member that says that it is encrypted",
        "`evil.py` is encrypted",
        |members, _| {
            members[0].flags = 1;
        },
    ),
    (
        "an unknown compression",
        "compression method not supported: 99",
        |members, _| members[0].method = 99,
    ),
    (
        "a member that is called otherwise elsewhere",
        "its zip directory",
        |members, _| {
            members[0].local_name = Some(b"good.py".to_vec());
        },
    ),
    (
        "a member of another size elsewhere",
        "its zip directory",
        |members, _| members[0].local_size = Some(3),
    ),
    (
        "a member that is longer than there is",
        "overlapping entries",
        |members, _| {
            members[0].size = Some(1 << 20);
        },
    ),
    (
        "a sum that is wrong, in a wheel",
        "evil.py: Invalid checksum",
        |members, _| members[0].crc = Some(1),
    ),
    (
        "two members of one name, in a wheel",
        "its zip directory",
        |members, _| {
            members.insert(1, members[0].clone());
        },
    ),
    ("two members of one content", "its zip directory", |members, _| {
        let mut other = members[0].clone();
        other.name = b"other.py".to_vec();
        other.is_overlapping = true;
        members.insert(1, other);
    }),
    (
        "a member that no directory lists, in a wheel",
        "its zip directory",
        |members, _| {
            let mut hidden = Member::new("hidden.py", "evil = 1\n");
            hidden.is_unlisted = true;
            members.insert(0, hidden);
        },
    ),
    (
        "a size for large files that lies",
        "compressed size mismatch",
        |members, _| {
            // An extra field (APPNOTE 4.5.3) says 2^40 where the header says that it does.
            members[0].size = Some(u32::MAX);
            members[0].extra = [
                &[1, 0, 16, 0][..],
                &(1_u64 << 40).to_le_bytes(),
                &(1_u64 << 40).to_le_bytes(),
            ]
            .concat();
        },
    ),
];

const RECORDS: &[(&str, &str, Change)] = &[
    ("no RECORD", "it has no RECORD", |_, record| record.clear()),
    ("a digest that lies", "`evil.py` has the sha256", |members, _| {
        members[0].content = b"evil = 2\n".to_vec();
    }),
    ("a size that lies, in a wheel", "but its RECORD says 1", |_, record| {
        *record = record.replace(",9\n", ",1\n");
    }),
    ("a size that is no number, in a wheel", "is no size", |_, record| {
        *record = record.replace(",9\n", ",-9\n");
    }),
    ("a digest that is no digest", "which is not base64url", |_, record| {
        *record = record.replace("sha256=", "sha256=*");
    }),
    ("a digest by MD5", "by `md5`", |_, record| {
        *record = record.replace("sha256=", "md5=");
    }),
    (
        "a file that is not listed",
        "is not listed in its RECORD",
        |_, record| *record = record.lines().skip(1).map(|line| format!("{line}\n")).collect(),
    ),
    ("a listed file that is not there", "is not there", |_, record| {
        record.push_str("ghost.py,,\n");
    }),
    ("a listed path that leads up", "has a `..` component", |_, record| {
        record.push_str("../ghost.py,,\n");
    }),
    (
        "a path twice in a wheel, and not alike",
        "is listed twice",
        |_, record| {
            record.push_str("evil.py,,\n");
        },
    ),
    ("a RECORD of other columns", "fields instead of", |_, record| {
        record.push_str("evil.py,a,b,c,d\n");
    }),
    (
        "a RECORD with an open quote",
        "line 4 of its RECORD: 1 fields instead of",
        |_, record| {
            record.push_str("\"evil.py,,\n");
        },
    ),
];

const METADATA: &[(&str, &str, Change)] = &[
    (
        "a command that leads up",
        "`../../evil` cannot be the name of a command",
        |members, record| {
            commands(members, record, "../../evil = evil:main");
        },
    ),
    (
        "a command that is an interpreter",
        "the Python interpreter",
        |members, record| {
            commands(members, record, "python3 = evil:main");
        },
    ),
    ("a command that runs more", "is not a function", |members, record| {
        commands(members, record, "x = evil:main; import os");
    }),
    ("a command for the shell is a name", "", |members, record| {
        commands(members, record, "x;$(id)&'\" = evil:main");
    }),
    (
        "a command with an escape",
        "cannot be the name of a command",
        |members, record| {
            commands(members, record, "x\u{1b}[2J = evil:main");
        },
    ),
    (
        "commands that are not UTF-8",
        "its entry_points.txt",
        |members, record| {
            add(
                members,
                record,
                &format!("{INFO}/entry_points.txt"),
                b"[console_scripts]\n\xff = evil:main\n",
            );
        },
    ),
    (
        "another version of the format",
        "the Wheel-Version 2.0",
        |members, record| {
            replace(members, record, "WHEEL", b"Wheel-Version: 2.0\n");
        },
    ),
    (
        "another distribution inside",
        "but its METADATA says good 1.0",
        |members, record| {
            replace(
                members,
                record,
                "METADATA",
                b"Metadata-Version: 2.1\nName: good\nVersion: 1.0\n",
            );
        },
    ),
    ("names of a wheel that differ in case are two", "", |members, record| {
        add(members, record, "EVIL.py", b"x");
    }),
    ("a name with a line break is one", "", |members, record| {
        add(members, record, "new\nline.py", b"x");
    }),
];

fn refused_or_taken(part: &'static str) -> Outcome {
    match part {
        "" => Outcome::Taken(Vec::new()),
        part => Outcome::Refused(vec![part]),
    }
}

fn row(path: &str, content: &[u8]) -> String {
    let path = if path.contains(['\n', ',', '"']) {
        format!("\"{path}\"")
    } else {
        path.to_owned()
    };
    format!(
        "{path},sha256={},{}\n",
        base64url(&Sha256::digest(content)),
        content.len()
    )
}

fn add(members: &mut Vec<Member>, record: &mut String, path: &str, content: &[u8]) {
    members.push(Member::new(path, content));
    record.push_str(&row(path, content));
}

fn commands(members: &mut Vec<Member>, record: &mut String, line: &str) {
    let text = format!("[console_scripts]\n{line}\n");
    add(members, record, &format!("{INFO}/entry_points.txt"), text.as_bytes());
}

fn replace(members: &mut Vec<Member>, record: &mut String, name: &str, content: &[u8]) {
    let path = format!("{INFO}/{name}");
    members.retain(|member| member.name != path.as_bytes());
    *record = record
        .lines()
        .filter(|line| !line.starts_with(&path))
        .map(|line| format!("{line}\n"))
        .collect();
    add(members, record, &path, content);
}

/// A wheel with one module, changed.
fn case(what: &'static str, outcome: Outcome, change: impl FnOnce(&mut Vec<Member>, &mut String)) -> Case {
    let (mut members, mut record) = (Vec::new(), String::new());
    add(&mut members, &mut record, "evil.py", b"evil = 1\n");
    let wheel = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n";
    add(&mut members, &mut record, &format!("{INFO}/WHEEL"), wheel);
    let metadata = b"Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n";
    add(&mut members, &mut record, &format!("{INFO}/METADATA"), metadata);
    change(&mut members, &mut record);
    if !record.is_empty() {
        record += &format!("{INFO}/RECORD,,\n");
        members.push(Member::new(&format!("{INFO}/RECORD"), &record));
    }
    Case {
        what,
        file_name: "evil-1.0-py3-none-any.whl".to_owned(),
        archive: zip::zip(&members),
        outcome,
        options: &[],
    }
}

fn misplaced(what: &'static str, path: &'static str, part: &'static str) -> Case {
    case(what, Outcome::Refused(vec![part]), |members, record| {
        add(members, record, path, b"x");
    })
}

/// A wheel whose 4 MiB of zeros take some kilobytes.
fn deflated_bomb() -> Vec<u8> {
    let (mut members, mut record) = (Vec::new(), String::new());
    case("", Outcome::Taken(Vec::new()), |whole, rows| {
        add(whole, rows, "zeros", &vec![0; 4 << 20]);
        members.clone_from(whole);
        record.clone_from(rows);
    });
    members.push(Member::new(
        &format!("{INFO}/RECORD"),
        record + &format!("{INFO}/RECORD,,\n"),
    ));
    let mut zip = ::zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for member in members {
        let name = String::from_utf8(member.name).unwrap();
        zip.start_file(name, ::zip::write::SimpleFileOptions::default())
            .unwrap();
        zip.write_all(&member.content).unwrap();
    }
    zip.finish().unwrap().into_inner()
}
