//! Directories that cannot be used, or that other users can change.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::Path,
};

use states::{DirectoryStore, Exposure, RunId, SnapshotStore, StoreError};

use crate::{archive, id, names, save, snapshot, store};

#[tokio::test]
async fn a_directory_that_cannot_be_used_is_an_error_before_anything_is_launched() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(DirectoryStore::open(&file).is_err());
    assert!(DirectoryStore::open(file.join("below")).is_err());
    symlink(place.path().join("nowhere"), place.path().join("dangling")).unwrap();
    assert!(DirectoryStore::open(place.path().join("dangling")).is_err());
    // A directory in a file's place, which even root cannot replace.
    let (_place, store) = store();
    fs::create_dir(store.directory().join("a.tmp")).unwrap();
    let text = save(&store, &snapshot("a")).await.unwrap_err().to_string();
    assert!(text.contains("cannot write") && text.contains("a.ron"), "{text}");
    assert!(store.load(&id("a")).await.unwrap().is_none());
}

#[test]
fn a_directory_that_others_can_change_is_refused_with_a_remedy() {
    let place = tempfile::tempdir().unwrap();
    let (above, directory) = (place.path().join("above"), place.path().join("above/metadata"));
    let set = |path: &Path, mode: u32| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap()
    };
    DirectoryStore::open(&directory).unwrap();
    let refused = |named: &Path, part: &Path, help: &str| {
        let error = DirectoryStore::open(named).unwrap_err();
        let text = error.to_string();
        assert!(
            matches!(error, StoreError::Exposed { .. }) && text.contains(named.to_str().unwrap()),
            "{text}"
        );
        assert!(
            text.contains(&format!("{help} {}", part.display()))
                && text.contains("Nothing was touched"),
            "{text}"
        );
    };
    for mode in [0o777, 0o770, 0o702, 0o1777, 0o720] {
        set(&directory, mode);
        refused(&directory, &directory, "chmod go-w");
    }
    for mode in [0o700, 0o755, 0o750] {
        set(&directory, mode);
        DirectoryStore::open(&directory).unwrap();
    }
    // A user who can write to the directory above can replace this one, unless the sticky bit is
    // set.
    set(&above, 0o777);
    refused(&directory, &above, "chmod go-w");
    set(&above, 0o1777);
    DirectoryStore::open(&directory).unwrap();
    // So can a user who can replace a link on the path.
    let open = place.path().join("open");
    fs::create_dir(&open).unwrap();
    symlink(&directory, open.join("link")).unwrap();
    DirectoryStore::open(open.join("link")).unwrap();
    set(&open, 0o777);
    refused(&open.join("link"), &open, "chmod go-w");
    // Reading is allowed; acting is not.
    set(&directory, 0o777);
    let store = DirectoryStore::look(&directory);
    assert!(
        store.jobs().unwrap().is_empty()
            && store.refuse_exposed().is_err()
            && store.note(&[]).is_err()
    );
}

#[test]
fn a_directory_of_another_user_is_refused_with_a_remedy() {
    let place = tempfile::tempdir().unwrap();
    let (above, directory) = (place.path().join("above"), place.path().join("above/metadata"));
    DirectoryStore::open(&directory).unwrap();
    if chown(&directory, Some(4711), None).is_err() {
        println!("skipped: this user may not give files away");
        return;
    }
    for (theirs, ours) in [(&directory, &above), (&above, &directory)] {
        chown(theirs, Some(4711), None).unwrap();
        chown(ours, Some(0), None).unwrap();
        let error = DirectoryStore::open(&directory).unwrap_err();
        let StoreError::Exposed { exposed, .. } = &error else { panic!("{error}") };
        assert_eq!(
            (&exposed.part, exposed.exposure),
            (theirs, Exposure::Owner { owner: 4711, user: 0 })
        );
        assert!(error.to_string().contains(&format!("chown -h 0 {}", theirs.display())), "{error}");
    }
}

#[tokio::test]
async fn links_in_the_directory_are_not_followed() {
    let (place, store) = store();
    let victim = place.path().join("victim");
    let plant = |name: &str| {
        fs::write(&victim, "theirs").unwrap();
        let link = store.directory().join(name);
        let _ = fs::remove_file(&link);
        symlink(&victim, link).unwrap();
    };
    let unharmed = || assert_eq!(fs::read_to_string(&victim).unwrap(), "theirs");
    plant("a.tmp");
    save(&store, &snapshot("a")).await.unwrap();
    plant("a.probe");
    let lease = store.try_lease(&id("a"), "test").unwrap();
    store.check_writable(&lease, &id("a")).await.unwrap();
    drop(lease);
    unharmed();
    plant("a.lock");
    assert!(store.try_lease(&id("a"), "test").is_err());
    unharmed();
    fs::remove_file(store.directory().join("a.lock")).unwrap();
    let lease = store.try_lease(&id("a"), "test").unwrap();
    plant("a.offset");
    assert!(store.mark(&lease, &RunId::new("0000-a").unwrap(), 7).await.is_err());
    drop(lease);
    unharmed();
    // The link's target is a valid snapshot.
    let elsewhere = place.path().join("elsewhere.ron");
    fs::write(&elsewhere, snapshot("b").to_ron().unwrap()).unwrap();
    symlink(&elsewhere, store.snapshot_path(&id("b"))).unwrap();
    assert!(matches!(store.load(&id("b")).await.unwrap_err(), StoreError::Io { .. }));
    // The same holds for the archive and its files.
    let other = place.path().join("other");
    fs::create_dir(&other).unwrap();
    symlink(&other, store.archive_path()).unwrap();
    assert!(archive(&store, &snapshot("a")).await.is_err());
    assert_eq!(names(&other), [""; 0]);
    fs::remove_file(store.archive_path()).unwrap();
    fs::create_dir(store.archive_path()).unwrap();
    for name in ["archive/.pruned", "archive/index"] {
        plant(name);
        save(&store, &snapshot("a")).await.unwrap();
        let store = store.clone().with_notes(|_| "note".to_owned());
        archive(&store, &snapshot("a")).await.unwrap();
        unharmed();
    }
}
