//! Hostile conda packages (`.conda` and `.tar.bz2`), one by one.

mod whole;

use serde_json::json;

use super::tar::{Blocks, header, record};
use super::{Case, Outcome};
use crate::package::{Format, Package, Raw, tar_of};

/// All of them. Each is called `evil<number> 1.0 0`, for a channel to hold them all.
///
/// # Panics
/// When one cannot be made.
#[must_use]
pub fn packages() -> Vec<(Package, Case)> {
    let mut all = List(Vec::new());
    places(&mut all);
    links(&mut all);
    kinds(&mut all);
    names(&mut all);
    disagreements(&mut all);
    holes(&mut all);
    damage(&mut all);
    whole::containers(&mut all);
    whole::metadata(&mut all);
    whole::limits(&mut all);
    all.0
}

struct List(Vec<(Package, Case)>);

impl List {
    /// A package with one listed file, `a`.
    fn package(&self) -> Package {
        Package::new(&format!("evil{} 1.0 0", self.0.len())).file("a", "a")
    }

    fn push(&mut self, what: &'static str, package: Package, format: Format, archive: Vec<u8>, outcome: Outcome) {
        let case = Case {
            what,
            file_name: package.file_name(format),
            archive,
            outcome,
            options: &[],
        };
        self.0.push((package, case));
    }

    /// Both formats by turns, with `extra` behind the honest payload.
    fn tar(&mut self, what: &'static str, extra: &Blocks, outcome: Outcome) {
        self.package_with(what, self.package(), extra, outcome);
    }

    fn refused(&mut self, what: &'static str, extra: &Blocks, part: &'static str) {
        self.tar(what, extra, Outcome::Refused(vec![part]));
    }

    fn package_with(&mut self, what: &'static str, package: Package, extra: &Blocks, outcome: Outcome) {
        let format = [Format::Conda, Format::TarBz2][self.0.len() % 2];
        let honest = tar_of(package.payload());
        let payload = [&honest[..honest.len() - 1024], &extra.ended()].concat();
        let archive = package.archive_of(format, &payload);
        self.push(what, package, format, archive, outcome);
    }

    /// A `.conda` whose parts are made by hand, of its honest payload and metadata.
    fn container(
        &mut self,
        what: &'static str,
        part: &'static str,
        make: impl FnOnce(&str, Vec<u8>, Vec<u8>) -> Vec<u8>,
    ) {
        let package = self.package();
        let name = package.file_name(Format::Conda).replace(".conda", ".tar.zst");
        let (payload, info) = (tar_of(package.payload()), tar_of(&package.info()));
        let archive = make(&name, whole::squeezed(&payload), whole::squeezed(&info));
        let outcome = match part {
            "" => Outcome::Taken(vec!["a"]),
            part => Outcome::Refused(vec![part]),
        };
        self.push(what, package, Format::Conda, archive, outcome);
    }

    /// A package whose metadata is `change`d.
    fn listed(&mut self, what: &'static str, outcome: Outcome, change: impl FnOnce(Package) -> Package) {
        let package = change(self.package());
        self.package_with(what, package, &Blocks::default(), outcome);
    }

    fn limited(&mut self, what: &'static str, part: &'static str, options: &'static [&'static str], extra: &Blocks) {
        self.refused(what, extra, part);
        if let Some((_, case)) = self.0.last_mut() {
            case.options = options;
        }
    }
}

fn places(all: &mut List) {
    let dots = "has a `..` component";
    for (what, name, part) in [
        (
            "a file above the environment",
            "../evil",
            "`../evil` has a `..` component",
        ),
        (
            "a file above it by a detour",
            "lib/../../evil",
            "`lib/../../evil` has a `..` component",
        ),
        ("a file at an absolute path", "/etc/evil", "`/etc/evil` is absolute"),
        ("metadata above the environment", "info/../../evil", dots),
        ("an empty name in a path", "lib//evil", "has an empty component"),
        ("a dot in a path", "lib/./evil", "has a `.` component"),
    ] {
        all.refused(what, &Blocks::default().file(name.as_bytes(), b"x"), part);
    }
    let innocent = |extension: Blocks| extension.file(b"innocent", b"x");
    let extra = innocent(Blocks::default().pax(&[("path", b"../evil")]));
    all.refused(
        "an extended header that leads up",
        &extra,
        "`../evil` has a `..` component",
    );
    let extra = innocent(Blocks::default().extension(b'L', b"../evil\0"));
    all.refused("a long name that leads up", &extra, "`../evil` has a `..` component");
    let mut split = header(b'0', b"evil");
    split.as_ustar_mut().unwrap().prefix[..2].copy_from_slice(b"..");
    all.refused(
        "a prefix of a name that leads up",
        &Blocks::default().with(split, b""),
        "`../evil` has",
    );
}

fn links(all: &mut List) {
    let link = |kind, name: &str, target: &str| Blocks::default().entry(kind, name.as_bytes(), target.as_bytes());
    for (what, extra, part) in [
        (
            "a file through a symlink out of the environment",
            link(b'2', "out", "/etc").file(b"out/passwd", b"x"),
            "`out/passwd` lies below `out`, a symlink to `/etc`",
        ),
        (
            "a file far below a symlink",
            link(b'2', "b", "c/d").file(b"b/e/f", b"x"),
            "`b/e/f` lies below `b`, a symlink to `c/d`",
        ),
        (
            "a symlink in the place of a directory that has files",
            Blocks::default().file(b"b/x", b"x").entry(b'2', b"b", b"/etc"),
            "`b/x` lies below `b`, a symlink to `/etc`",
        ),
        (
            "a file through a hardlink to a symlink",
            link(b'2', "b", "/etc").entry(b'1', b"c", b"b").file(b"c/passwd", b"x"),
            "`c/passwd` lies below `c`, a symlink",
        ),
        (
            "a file below a file",
            Blocks::default().file(b"b", b"x").file(b"b/c", b"x"),
            "`b/c` lies below `b`, a file",
        ),
        (
            "a hardlink to a file above the environment",
            link(b'1', "hard", "../../etc/passwd"),
            "`hard` is a hardlink whose target has a `..`",
        ),
        (
            "a hardlink to an absolute path",
            link(b'1', "hard", "/etc/passwd"),
            "`hard` is a hardlink whose target is absolute",
        ),
        (
            "a hardlink to what comes later",
            link(b'1', "hard", "later").file(b"later", b"x"),
            "`later`, which is no earlier file",
        ),
        (
            "a hardlink to itself",
            link(b'1', "hard", "hard"),
            "`hard`, which is no earlier file",
        ),
        (
            "a hardlink to metadata",
            link(b'1', "hard", "info/index.json"),
            "`info/index.json`, which is no earlier file",
        ),
        (
            "a hardlink to a directory",
            link(b'5', "d", "").entry(b'1', b"hard", b"d"),
            "`d`, which is no earlier file",
        ),
        (
            "an extended header that leads a hardlink up",
            Blocks::default()
                .pax(&[("linkpath", b"../evil")])
                .entry(b'1', b"hard", b"a"),
            "`hard` is a hardlink whose target has a `..`",
        ),
        (
            "a symlink without a target",
            link(b'2', "soft", ""),
            "the link `soft` has no target",
        ),
        (
            "a symlink with NUL in its target",
            Blocks::default()
                .pax(&[("linkpath", b"x\0y")])
                .entry(b'2', b"soft", b""),
            "the link `soft` has no target",
        ),
        (
            "a symlink whose target is too long",
            Blocks::default()
                .extension(b'K', &[b'x'; 4096])
                .entry(b'2', b"soft", b"x"),
            "`soft` is a link whose target is longer than 4095 bytes",
        ),
        (
            "a symlink with content",
            {
                let mut header = header(b'2', b"soft");
                header.as_old_mut().linkname[0] = b'a';
                header.set_size(512);
                Blocks::default().with(header, &[b'x'; 512])
            },
            "has 512 bytes of content for `soft`, which is no plain file",
        ),
        (
            "a directory with content",
            {
                let mut header = header(b'5', b"d/");
                header.set_size(512);
                Blocks::default().with(header, Blocks::default().file(b"hidden", b"").bytes())
            },
            "has 512 bytes of content for `d`",
        ),
    ] {
        all.refused(what, &extra, part);
    }
    let package = all.package().symlink("away", "../../etc/passwd");
    let taken = Outcome::Taken(vec!["a", "away -> ../../etc/passwd"]);
    all.package_with("a symlink that leads away is one", package, &Blocks::default(), taken);
}

fn kinds(all: &mut List) {
    for (what, kind, part) in [
        ("a block device", b'4', "`node` is a device node"),
        ("a character device", b'3', "`node` is a device node"),
        ("a pipe", b'6', "`node` is a device node or a pipe"),
        (
            "a socket, which tar does not know",
            b's',
            "`node` is a tar entry of the unknown type",
        ),
    ] {
        all.refused(what, &Blocks::default().entry(kind, b"node", b""), part);
    }
    let mut taken = |what, change: &dyn Fn(Package) -> Package, extra: &Blocks, lines| {
        let package = change(all.package());
        all.package_with(what, package, extra, Outcome::Taken(lines));
    };
    let root = |package: Package| {
        let file = |path, mode| Raw::file(path, "x").mode(mode);
        package
            .listed(file("setuid", 0o6755), &json!({}))
            .listed(file("sticky", 0o7644), &json!({}))
    };
    let none = Blocks::default();
    taken(
        "setuid, setgid and sticky bits say nothing",
        &root,
        &none,
        vec!["a", "setuid*", "sticky"],
    );
    // A newline in the attribute ends the header for readers that split it into lines.
    let capability = b"\x01\x00\x00\x02\n\x20\x00\x00";
    let records = [
        record("SCHILY.xattr.security.capability", capability),
        record("SCHILY.xattr.user.x", b"10 size=9\n"),
    ];
    let extra = Blocks::default().extension(b'x', &records.concat()).file(b"a", b"a");
    taken(
        "capabilities in attributes are left out",
        &|package| package,
        &extra,
        vec!["a"],
    );
    let twice = |package: Package| package.listed(Raw::file("b", "second"), &json!({}));
    let extra = Blocks::default().file(b"b", b"first").file(b"./b", b"second");
    taken("what comes twice is what comes last", &twice, &extra, vec!["a", "b"]);
    let folded = |package: Package| package.file("A", "capital");
    taken("names that differ in case are two", &folded, &none, vec!["A", "a"]);
}

fn names(all: &mut List) {
    let named = |name: &[u8]| Blocks::default().pax(&[("path", name)]).file(b"x", b"x");
    all.refused(
        "a name of 256 bytes",
        &named(&[b'x'; 256]),
        "has a component longer than 255 bytes",
    );
    let long = [b"directory/".repeat(420), b"x".to_vec()].concat();
    all.refused(
        "a path of 4,201 bytes",
        &named(&long),
        "a path in it has more than 3072 bytes (the limit `path`)",
    );
    all.refused("NUL in a name", &named(b"x\0y"), "holds a NUL byte");
    let steers = Blocks::default().entry(b'6', b"\x1b]0;x\x07", b"");
    all.refused(
        "a name that steers a terminal",
        &steers,
        "`\\u{1b}]0;x\\u{7}` is a device node",
    );
    let taken = Outcome::Taken(vec!["a"]);
    all.tar(
        "a name that is not UTF-8 and is not listed",
        &Blocks::default().file(b"\xff\xfe", b"x"),
        taken,
    );
    let package = all.package().file("new\nline", "x");
    let taken = Outcome::Taken(vec!["a", "new\nline"]);
    all.package_with("a name with a line break", package, &Blocks::default(), taken);
    let deep = "d/".repeat(1200) + "file";
    let entry = named(deep.as_bytes());
    all.tar("1,200 directories in each other", &entry, Outcome::Taken(vec!["a"]));
    all.refused(
        "a plain file called as a directory",
        &Blocks::default().file(b"x/", b"x"),
        "what is no directory `x/`",
    );
}

fn disagreements(all: &mut List) {
    let sized = |size: &[u8]| {
        Blocks::default()
            .pax(&[("size", size)])
            .file(b"b", Blocks::default().file(b"../evil", b"x").bytes())
    };
    for (what, size, part) in [
        (
            "a file that one reader sees shorter",
            &b"0"[..],
            "`b` has 1024 bytes and that it has 0",
        ),
        (
            "a file that one reader sees longer",
            b"4096",
            "`b` has 1024 bytes and that it has 4096",
        ),
        ("a size that is no number", b"many", "has the size `many`"),
        ("a size below zero", b"-1", "has the size `-1`"),
        ("a size of more than all", b"99999999999999999999", "has the size"),
    ] {
        all.refused(what, &sized(size), part);
    }
    let extended = |content: &[u8]| Blocks::default().extension(b'x', content).file(b"b", b"x");
    let cut = "has attributes that are cut off";
    for (what, content, part) in [
        ("an attribute longer than all", &b"99 path=b\n"[..], cut),
        ("an attribute of no length", b"0 path=b\n", cut),
        ("an attribute without a newline", b"9 path=bb", cut),
        ("a length that is no number", b"xx path=b\n", cut),
    ] {
        all.refused(what, &extended(content), part);
    }
    let twice = Blocks::default()
        .pax(&[("path", b"b"), ("path", b"c")])
        .file(b"b", b"x");
    all.refused("two names in one header", &twice, "says the path of one member twice");
    let both = Blocks::default()
        .pax(&[("path", b"b")])
        .extension(b'L', b"c\0")
        .file(b"b", b"x");
    all.refused("two names in two headers", &both, "calls one member `b` and `c`");
    let two = Blocks::default()
        .pax(&[("path", b"b")])
        .pax(&[("path", b"b")])
        .file(b"b", b"x");
    all.refused(
        "two headers for one member",
        &two,
        "says twice what one member is called",
    );
    let all_members = Blocks::default()
        .extension(b'g', &record("path", b"b"))
        .file(b"c", b"x");
    all.refused(
        "a name for all members",
        &all_members,
        "says for all members what they are called",
    );
    let comment = Blocks::default().extension(b'g', &record("comment", b"0123"));
    all.tar("a comment on all members", &comment, Outcome::Taken(vec!["a"]));
    all.refused(
        "a name of nothing",
        &Blocks::default().pax(&[("path", b"b")]),
        "belong to nothing",
    );
    let huge = Blocks::default().extension(b'L', &vec![b'x'; 2 << 20]).file(b"b", b"x");
    all.refused("a name of 2 MiB", &huge, "has a name or attributes of 2097152 bytes");
}

fn holes(all: &mut List) {
    let called = |name: &str, real: u64, pieces: &[(u64, u64)], content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(tar::EntryType::GNUSparse);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        let gnu = header.as_gnu_mut().unwrap();
        for (field, &(offset, len)) in gnu.sparse.iter_mut().zip(pieces) {
            field.set_offset(offset);
            field.set_length(len);
        }
        gnu.set_real_size(real);
        Blocks::default().with(header, content)
    };
    let sparse = |real: u64, pieces: &[(u64, u64)], content: &[u8]| called("sparse", real, pieces, content);
    // Nobody reads these: they are passed over, however long they would be.
    for (what, name) in [
        ("a hole of 4 EiB in metadata that nobody reads", "info/junk"),
        ("a hole of 4 EiB in what is called as the directory itself", "."),
    ] {
        let extra = called(name, 1 << 62, &[(0, 512)], &[b'x'; 512]);
        all.tar(what, &extra, Outcome::Taken(vec!["a"]));
    }
    let mut whole = vec![0; 4096];
    whole.extend([b'x'; 512]);
    whole.resize(8192, 0);
    let line = json!({"_path": "sparse"});
    let package = all.package().listed(Raw::file("other", &whole), &line);
    let taken = Outcome::Taken(vec!["a", "sparse"]);
    let extra = sparse(8192, &[(4096, 512)], &[b'x'; 512]);
    all.package_with("a file with holes is whole", package, &extra, taken);
    let fit = "has a file with holes that do not fit";
    all.refused(
        "pieces that overlap",
        &sparse(2048, &[(0, 512), (256, 512)], &[b'x'; 1024]),
        fit,
    );
    all.refused(
        "pieces of more than there is",
        &sparse(2048, &[(0, 1024)], &[b'x'; 512]),
        fit,
    );
    all.refused(
        "a piece behind the end",
        &sparse(512, &[(1024, 512)], &[b'x'; 512]),
        fit,
    );
    let eternal = sparse(1 << 62, &[(0, 512)], &[b'x'; 512]);
    all.refused(
        "a hole of 4 EiB",
        &eternal,
        "it unpacks to more than 137438953472 bytes",
    );
    let pax = Blocks::default().pax(&[("GNU.sparse.major", b"1")]).file(b"b", b"x");
    all.refused(
        "holes that another format describes",
        &pax,
        "holds a file with holes in a form that is not read",
    );
}

fn damage(all: &mut List) {
    let mut wrong = header(b'0', b"b");
    wrong.set_cksum();
    wrong.as_old_mut().name[0] = b'c';
    all.refused(
        "a header whose sum is wrong",
        &Blocks::default().raw(wrong.as_bytes()),
        "has a header whose sum is wrong",
    );
    let size = |field: [u8; 12]| {
        let mut header = header(b'0', b"b");
        header.as_old_mut().size = field;
        Blocks::default().with(header, b"")
    };
    all.refused("a size of 2^95", &size([0x80 + 0x7F; 12]), "has no size for `b`");
    all.refused("a binary size below zero", &size([0xFF; 12]), "has no size for `b`");
    all.refused(
        "a size that is no number in the header",
        &size(*b"zzzzzzzzzzzz"),
        "has no size for `b`",
    );
    let mut far = [0; 12];
    far[0] = 0x80;
    far[4] = 0x7F;
    all.refused(
        "a file that is not all there",
        &size(far),
        "cannot be read as a conda package",
    );
    let behind = Blocks::default().raw(&[0; 1024]).file(b"../evil", b"x");
    all.refused("something behind the end", &behind, "goes on behind its end");
}
