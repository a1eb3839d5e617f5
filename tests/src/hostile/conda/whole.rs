//! Packages that are hostile as a whole: their containers, their metadata, and what is too much.

use std::io::Write;

use serde_json::{Value, json};

use super::super::Outcome;
use super::super::tar::Blocks;
use super::super::zip::{self, Member};
use super::List;
use crate::package::{Format, PLACEHOLDER, Package, Raw};

pub(super) fn containers(all: &mut List) {
    let members = |name: &str, payload: Vec<u8>, info: Vec<u8>| {
        vec![
            Member::new("metadata.json", r#"{"conda_pkg_format_version": 2}"#),
            Member::new(&format!("pkg-{name}"), payload),
            Member::new(&format!("info-{name}"), info),
        ]
    };
    all.container("a .conda made by hand is one", "", |name, payload, info| {
        zip::zip(&members(name, payload, info))
    });
    all.container(
        "two payloads",
        "holds 2 members `pkg-*.tar.zst`",
        |name, payload, info| {
            let mut members = members(name, payload.clone(), info);
            members.push(Member::new("pkg-other.tar.zst", payload));
            zip::zip(&members)
        },
    );
    all.container(
        "no metadata",
        "holds 0 members `info-*.tar.zst`",
        |name, payload, info| zip::zip(&members(name, payload, info)[..2]),
    );
    all.container(
        "a payload that says that it is deflated",
        "is compressed a second time",
        |name, payload, info| {
            let mut members = members(name, payload, info);
            members[1].method = 8;
            zip::zip(&members)
        },
    );
    all.container(
        "a payload that says that it is encrypted",
        "its zip directory",
        |name, payload, info| {
            let mut members = members(name, payload, info);
            members[1].flags = 1;
            zip::zip(&members)
        },
    );
    all.container(
        "a payload that is called otherwise elsewhere",
        "its zip directory",
        |name, payload, info| {
            let mut members = members(name, payload, info);
            members[1].local_name = Some(format!("xkg-{name}").into_bytes());
            zip::zip(&members)
        },
    );
    all.container("two members of one name", "its zip directory", |name, payload, info| {
        let mut members = members(name, payload, info);
        members.push(members[1].clone());
        zip::zip(&members)
    });
    all.container(
        "a member that no directory lists",
        "its zip directory",
        |name, payload, info| {
            let mut members = members(name, payload.clone(), info);
            let mut hidden = Member::new("pkg-hidden.tar.zst", payload);
            hidden.is_unlisted = true;
            members.insert(0, hidden);
            zip::zip(&members)
        },
    );
    all.container(
        "a zip that goes on",
        "it goes on behind the end",
        |name, payload, info| [zip::zip(&members(name, payload, info)), b"more".to_vec()].concat(),
    );
    all.container(
        "a program before the zip",
        "it is neither a .conda",
        |name, payload, info| [b"#!/bin/sh\n".to_vec(), zip::zip(&members(name, payload, info))].concat(),
    );
    all.container(
        "a sum that is wrong",
        "cannot be read as a conda package",
        |name, payload, info| {
            let mut members = members(name, payload, info);
            members[1].crc = Some(1);
            zip::zip(&members)
        },
    );
    all.container(
        "a thousand members",
        "its zip holds more than 64 members",
        |name, payload, info| {
            let mut members = members(name, payload, info);
            members.extend((0..1000).map(|number| Member::new(&format!("{number}"), "")));
            zip::zip(&members)
        },
    );
    all.container(
        "a window of 2 GiB",
        "cannot be read as a conda package",
        |name, _, info| {
            // A frame header (RFC 8878, 3.1.1.1): no content size, window 2^31, then an empty last block.
            let frame = [0x28, 0xB5, 0x2F, 0xFD, 0x00, 0xA8, 0x01, 0x00, 0x00];
            zip::zip(&members(name, frame.to_vec(), info))
        },
    );
    all.container(
        "something behind the compressed tar",
        "cannot be read as a conda package",
        |name, payload, info| zip::zip(&members(name, [payload, b"more".to_vec()].concat(), info)),
    );
    let package = all.package();
    let mut archive = package.archive(Format::TarBz2);
    archive.extend(b"more");
    let refused = Outcome::Refused(vec!["cannot be read as a conda package"]);
    all.push("something behind the bzip2", package, Format::TarBz2, archive, refused);
}

pub(super) fn metadata(all: &mut List) {
    let refused = |part| Outcome::Refused(vec!["info/paths.json", part]);
    let file = || Raw::file("b", "content");
    let lie = |fields: Value| move |package: Package| package.listed(file(), &fields);
    all.listed(
        "a sha256 that lies",
        refused("`b` has the sha256"),
        lie(json!({"sha256": "00".repeat(32)})),
    );
    all.listed(
        "a size that lies",
        refused("`b` has 7 bytes, but"),
        lie(json!({"size_in_bytes": 8})),
    );
    all.listed(
        "a path that leads up in the list",
        refused("`../b` has a `..`"),
        lie(json!({"_path": "../b"})),
    );
    all.listed(
        "a path that is not there",
        refused("lists `c`"),
        lie(json!({"_path": "c"})),
    );
    all.listed(
        "a size below zero in the list",
        refused("not a valid conda package"),
        lie(json!({"size_in_bytes": -1})),
    );
    let reserved = Raw::file("conda-meta/x.json", "{}");
    let outcome = Outcome::Refused(vec!["belongs to the installer"]);
    all.listed("a record of its own", outcome, |package| {
        package.listed(reserved, &json!({}))
    });
    all.listed(
        "a path twice, and not alike",
        refused("lists `b` twice, and not alike"),
        |package| {
            let placeholder = json!({"file_mode": "text", "prefix_placeholder": "/opt/x"});
            package.listed(file(), &json!({})).listed(file(), &placeholder)
        },
    );
    let prefixed = |placeholder: &str| json!({"file_mode": "text", "prefix_placeholder": placeholder});
    all.listed(
        "an empty placeholder",
        refused("has a prefix placeholder"),
        lie(prefixed("")),
    );
    all.listed(
        "a placeholder with NUL",
        refused("has a prefix placeholder"),
        lie(prefixed("/x\0")),
    );
    let outcome = Outcome::Refused(vec!["`b` holds its prefix placeholder `/` more than 1000000 times"]);
    all.listed("a placeholder without end", outcome, |package| {
        package.listed(Raw::file("b", "/".repeat(2_000_000)), &prefixed("/"))
    });
    let offsets = json!({"file_mode": "text", "prefix_placeholder": PLACEHOLDER, "offsets": [0, 1, 1_u64 << 40]});
    let taken = Outcome::Taken(vec!["a", "b"]);
    all.listed("places of a placeholder that lie are not believed", taken, |package| {
        package.listed(Raw::file("b", format!("x {PLACEHOLDER}\n")), &offsets)
    });
    for (what, text, part) in [
        ("a list that is not JSON", "{".to_owned(), "info/paths.json"),
        ("a list a million deep", "[".repeat(1_000_000), "info/paths.json"),
        (
            "a list of another kind",
            r#"{"paths": 7}"#.to_owned(),
            "info/paths.json",
        ),
    ] {
        all.listed(what, Outcome::Refused(vec![part]), |package| {
            package.info_file(Raw::file("info/paths.json", text))
        });
    }
    let outcome = Outcome::Refused(vec!["info/paths.json is not a plain file"]);
    all.listed("a list that is a link", outcome, |package| {
        package.info_file(Raw::special("info/paths.json", tar::EntryType::Symlink, "/etc/passwd"))
    });
    let outcome = Outcome::Refused(vec!["info/index.json"]);
    all.listed("another name inside", outcome, |package| {
        let mut index = package.index();
        index["name"] = "../../evil".into();
        package.info_file(Raw::file("info/index.json", index.to_string()))
    });
}

pub(super) fn limits(all: &mut List) {
    let zeros = |bytes: usize| Blocks::default().file(b"zeros", &vec![0; bytes]);
    let help = "raise the limit";
    all.limited(
        "a bomb",
        "it unpacks to more than 1000000 bytes (the limit `unpacked`)",
        &["--limit", "unpacked=1MB"],
        &zeros(4 << 20),
    );
    all.limited(
        "a bomb, and what to do",
        help,
        &["--limit", "unpacked=1MB"],
        &zeros(4 << 20),
    );
    let many = (0..50).fold(Blocks::default(), |blocks, number: u32| {
        blocks.file(format!("f{number}").as_bytes(), b"")
    });
    all.limited(
        "too many files",
        "it holds more than 40 files (the limit `files`)",
        &["--limit", "files=40"],
        &many,
    );
    all.limited(
        "a path that is too long",
        "a path in it has more than 10 bytes",
        &["--limit", "path=10"],
        &Blocks::default().file(b"long/name/x", b""),
    );
    all.limited(
        "an archive that is too large",
        "it is larger than 100 bytes (the limit `archive`)",
        &["--limit", "archive=100"],
        &Blocks::default(),
    );
    all.limited(
        "metadata that is too large",
        "its metadata has more than 100 bytes",
        &["--limit", "metadata=100"],
        &Blocks::default(),
    );
}

pub(super) fn squeezed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
