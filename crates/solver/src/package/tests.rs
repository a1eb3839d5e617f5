//! Packages from every kind of record, and their order.

use super::*;

fn explicit(name: &str) -> LockedPackage {
    let url = format!("https://user:secret@example.com/chan/linux-64/{name}");
    LockedPackage::from_archive_url(&url.parse().unwrap(), Some([7; 16]), None).unwrap()
}

fn package(name: &str, depends: &[&str], noarch: Option<&str>) -> LockedPackage {
    let json = serde_json::json!({
        "name": name, "version": "1.0", "build": "0", "build_number": 0, "depends": depends, "noarch": noarch,
        "subdir": if noarch.is_some() { "noarch" } else { "linux-64" }, "fn": format!("{name}-1.0-0.conda"),
        "url": format!("https://h/c/linux-64/{name}-1.0-0.conda"), "channel": "c",
        "files": [], "paths_data": {"paths": [], "paths_version": 1},
    });
    LockedPackage::from_prefix_record_json(&serde_json::to_vec(&json).unwrap()).unwrap()
}

fn order(packages: Vec<LockedPackage>) -> Vec<String> {
    link_order(packages)
        .unwrap()
        .iter()
        .map(|package| package.name().to_owned())
        .collect()
}

#[test]
fn a_url_tells_name_version_and_build() {
    let package = explicit("lib-foo-1!2.0-h_0.tar.bz2");
    assert_eq!(
        (package.name(), package.version().as_str(), package.build()),
        ("lib-foo", "1!2.0", "h_0")
    );
    assert_eq!(
        (package.subdir(), package.file_name().as_str()),
        ("linux-64", "lib-foo-1!2.0-h_0.tar.bz2")
    );
    assert_eq!(
        (package.md5(), package.sha256(), package.size_bytes()),
        (Some([7; 16]), None, None)
    );
    assert!(!package.is_complete());
    assert!(package.url().contains("secret") && !package.redacted_url().contains("secret"));
    assert_eq!(package.with_sha256([1; 32]).sha256(), Some([1; 32]));
}

#[test]
fn an_archive_completes_what_its_url_began() {
    let index = br#"{"name": "foo", "version": "1.0", "build": "h_0", "build_number": 3, "depends": ["bar >=2"],
        "subdir": "linux-64", "license": "MIT", "timestamp": 1700000000000}"#;
    let whole = explicit("foo-1.0-h_0.conda")
        .completed_from_index_json(index, [9; 32], 1234)
        .unwrap();
    assert!(whole.is_complete());
    assert_eq!(
        (whole.sha256(), whole.md5(), whole.size_bytes()),
        (Some([9; 32]), Some([7; 16]), Some(1234))
    );
    assert_eq!(whole.depends(), ["bar >=2"]);
    assert_eq!(whole.channel(), Some("https://user:secret@example.com/chan/"));
    assert_eq!(whole.record().package_record.build_number, 3);
    assert_eq!(whole.record().package_record.platform.as_deref(), Some("linux"));

    // What an index already patched stays as it is.
    let patched = package("foo", &["bar >=3"], None);
    let index =
        br#"{"name": "foo", "version": "1.0", "build": "0", "build_number": 0, "depends": [], "subdir": "linux-64"}"#;
    let same = patched.completed_from_index_json(index, [9; 32], 1).unwrap();
    assert_eq!(same.depends(), ["bar >=3"]);
}

#[test]
fn an_archive_of_another_package_is_refused() {
    let index =
        br#"{"name": "bar", "version": "1.0", "build": "h_0", "build_number": 0, "depends": [], "subdir": "linux-64"}"#;
    let error = explicit("foo-1.0-h_0.conda")
        .completed_from_index_json(index, [9; 32], 1)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("should hold foo 1.0 h_0 but holds bar 1.0 h_0"),
        "{error}"
    );
    assert!(!error.to_string().contains("secret"));
    let error = explicit("foo-1.0-h_0.conda")
        .completed_from_index_json(b"{}", [9; 32], 1)
        .unwrap_err();
    assert!(matches!(error, PackageError::IndexJson { .. }), "{error}");
}

#[test]
fn a_url_of_anything_else_is_refused() {
    for url in [
        "https://h/c/linux-64/foo.conda",
        "https://h/c/linux-64/foo-1-0.zip",
        "https://h/",
        "https://h/c/noarch/foo-1-0.whl",
    ] {
        let error = LockedPackage::from_archive_url(&url.parse().unwrap(), None, None).unwrap_err();
        assert!(matches!(error, PackageError::NotAnArchive { .. }), "{url}: {error}");
    }
    assert!(matches!(
        LockedPackage::from_prefix_record_json(b"{}").unwrap_err(),
        PackageError::PrefixRecord(_)
    ));
}

#[test]
fn dependencies_come_first_whatever_the_input_order() {
    let packages = vec![
        package("app", &["lib >=1", "python"], None),
        package("lib", &["base", "__glibc"], None),
        package("python", &["lib"], None),
        package("base", &[], None),
        package("alone", &[], None),
    ];
    let mut turned = packages.clone();
    turned.reverse();
    let wanted = order(packages);
    let position = |name: &str| wanted.iter().position(|found| found == name).unwrap();
    assert!(
        position("base") < position("lib")
            && position("lib") < position("python")
            && position("python") < position("app")
    );
    assert_eq!(order(turned), wanted);
}

#[test]
fn a_cycle_ends_with_what_is_noarch() {
    let packages = vec![
        package("pip", &["python"], Some("python")),
        package("python", &["pip"], None),
    ];
    assert_eq!(order(packages), ["python", "pip"]);
}

#[test]
fn two_packages_of_one_name_are_refused_and_not_dropped() {
    let error = link_order(vec![package("a", &[], None), package("a", &["b"], None)]).unwrap_err();
    assert!(
        matches!(&error, PackageError::SameName { name, .. } if name == "a"),
        "{error}"
    );
}
