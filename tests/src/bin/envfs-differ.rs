//! `envfs-differ KIND PREFIX PLAIN TREES CASES SEED`: does random operations to the environment at `PREFIX` and to its plain
//! copy, and fails where they differ. Started by tests, where the environment is seen.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it talks to the test that starts it"
)]

use std::process::ExitCode;

use envfs_tests::differ::compare::Comparison;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.as_slice() {
        [kind, prefix, plain, trees, cases, seed] => {
            parse(kind, prefix, plain, [trees, cases, seed]).and_then(|comparison| comparison.run())
        }
        _ => Err("give KIND PREFIX PLAIN TREES CASES SEED".to_owned()),
    };
    match outcome {
        Ok(counts) => {
            println!("{counts:?}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(kind: &str, prefix: &str, plain: &str, [trees, cases, seed]: [&String; 3]) -> Result<Comparison, String> {
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
    let small = |text: &str| number(text).and_then(|number| u32::try_from(number).map_err(|error| error.to_string()));
    Ok(Comparison {
        kind: kind.parse()?,
        prefix: prefix.into(),
        plain: plain.into(),
        trees: small(trees)? as usize,
        cases: small(cases)?,
        seed: number(seed)?,
    })
}
