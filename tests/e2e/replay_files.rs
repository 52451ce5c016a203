//! Error messages of `fargate-replay` for files and names that it cannot use.

use std::{fs, path::Path, process::Command};

/// Runs the command in a directory. Returns its exit code and what it wrote to standard error.
fn run(directory: &Path, arguments: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_fargate-replay"))
        .current_dir(directory)
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.stdout.is_empty(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn unusable_files_and_names_are_explained_in_one_line() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/stuck");
    let directory = tempfile::tempdir().unwrap();
    let whole = fs::read_to_string(fixtures.join("denied.ron")).unwrap();
    for (name, text) in [
        ("cut.ron", &whole[..whole.len() / 2]),
        ("newer.ron", &whole.replace("version: 1,", "version: 99,")),
        ("foreign.ron", "root:x:0:0:root:/root:/bin/bash\n"),
        ("empty.ron", ""),
    ] {
        fs::write(directory.path().join(name), text).unwrap();
    }
    fs::write(directory.path().join("binary.ron"), [0xff, 0, 0xfe]).unwrap();
    fs::create_dir(directory.path().join("directory")).unwrap();
    let stuck = ["--directory", fixtures.to_str().unwrap()];
    for command in ["show", "step", "export"] {
        for (file, words) in [
            ("cut.ron", &["cut.ron", "not a whole snapshot"][..]),
            ("newer.ron", &["newer.ron", "format version 99", "newer"]),
            ("foreign.ron", &["foreign.ron", "no snapshot"]),
            ("empty.ron", &["empty.ron", "no snapshot"]),
            ("binary.ron", &["binary.ron", "utf-8"]),
            ("directory", &["directory is a directory", "--directory"]),
            ("no/where.ron", &["no/where.ron", "No such file"]),
            ("4711", &["config.toml", "--config", "--directory"]),
        ] {
            let (code, text) = run(directory.path(), &[command, file]);
            assert!(
                code == 1
                    && words.iter().all(|word| text.contains(word))
                    && text.lines().count() == 1,
                "{command} {file}: {code}: {text}"
            );
        }
        for (job, words) in
            [("4711", "no job \"4711\""), ("", "no job \"\""), ("connection-", "connection-lost, ")]
        {
            let (code, text) = run(directory.path(), &[&stuck[..], &[command, job]].concat());
            assert!(code == 1 && text.contains(words), "{command} {job}: {code}: {text}");
        }
    }
    let copy = fixtures.join("connection-lost.ron");
    for (command, code) in [("resume", 255), ("shell", 255), ("stop", 1), ("archive", 1)] {
        let refused = run(directory.path(), &[command, copy.to_str().unwrap()]);
        assert!(refused.0 == code && refused.1.contains("is a copy"), "{command}: {refused:?}");
        let refused = run(directory.path(), &[&stuck[..], &[command, "connection-lost"]].concat());
        assert!(refused.0 == code && refused.1.contains("--config"), "{command}: {refused:?}");
    }
    let (code, text) = run(directory.path(), &["--directory", "nowhere", "list"]);
    assert!(
        code == 1
            && text.contains("no metadata directory nowhere")
            && !directory.path().join("nowhere").exists(),
        "{text}"
    );
}
