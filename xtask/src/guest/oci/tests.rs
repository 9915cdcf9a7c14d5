use super::layout::Descriptor;
use super::*;
use crate::cache;
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

/// An OCI layout of layers, each a directory's content or an archive made by hand.
struct Made {
    dir: tempfile::TempDir,
    layers: Vec<Descriptor>,
}

impl Made {
    fn new() -> Made {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("blobs/sha256")).unwrap();
        fs::write(dir.path().join("oci-layout"), b"{\"imageLayoutVersion\":\"1.0.0\"}").unwrap();
        Made { dir, layers: Vec::new() }
    }

    fn blob(&self, kind: &str, bytes: &[u8]) -> Descriptor {
        let sum = cache::sum(bytes);
        fs::write(self.dir.path().join("blobs/sha256").join(&sum), bytes).unwrap();
        let digest = format!("sha256:{sum}");
        let media_type = format!("application/vnd.oci.image.{kind}");
        let (size, annotations) = (bytes.len() as u64, BTreeMap::new());
        Descriptor { media_type, digest, size, annotations, platform: None }
    }

    /// A layer of what `fill` makes, packed by `tar` with `more` words.
    fn layer(&mut self, more: &[&str], fill: impl FnOnce(&Path)) {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fill(root.path());
        let mut words = vec!["--xattrs", "--xattrs-include=*", "-P", "-S", "-C"];
        let path = root.path().to_str().unwrap();
        words.extend([path, "-cf", "-"]);
        words.extend(more);
        words.push(".");
        let archive = cmd("tar", words).stdout_capture().run().unwrap().stdout;
        let layer = self.blob("layer.v1.tar", &archive);
        self.layers.push(layer);
    }

    fn finish(&self, config: serde_json::Value) -> String {
        let ids: Vec<_> = self.layers.iter().map(|layer| layer.digest.clone()).collect();
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": ids},
        });
        let config = self.blob("config.v1+json", &serde_json::to_vec(&config).unwrap());
        let manifest = serde_json::json!({
            "schemaVersion": 2, "config": config, "layers": self.layers,
        });
        let manifest = self.blob("manifest.v1+json", &serde_json::to_vec(&manifest).unwrap());
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [manifest]});
        fs::write(self.dir.path().join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
        self.dir.path().display().to_string()
    }

    fn blob_path(&self, of: &Descriptor) -> PathBuf {
        self.dir.path().join("blobs/sha256").join(of.digest.trim_start_matches("sha256:"))
    }
}

fn error(cache: &Cache, reference: &str) -> String {
    let source = Source::Oci(reference.to_owned());
    let text = format!("{:#}", ensure(cache, &source, false).map(|_| ()).unwrap_err());
    // Nothing is left behind.
    let left: Vec<_> = fs::read_dir(cache.root().join("work")).into_iter().flatten().collect();
    assert!(left.is_empty(), "{left:?} after {text}");
    text
}

fn attribute(path: &Path, name: &std::ffi::CStr, value: &[u8]) {
    let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    let (start, len) = (value.as_ptr().cast(), value.len());
    // SAFETY: both names end with NUL, and the value is that long.
    let done = unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), start, len, 0) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

/// Everything that `mkfs.erofs` is to keep of a file.
fn description(path: &Path) -> String {
    let meta = fs::symlink_metadata(path).unwrap();
    let content = match meta.is_file() {
        true => cache::file_sum(path).unwrap(),
        false => fs::read_link(path).map(|to| to.display().to_string()).unwrap_or_default(),
    };
    let links = if meta.is_dir() { 0 } else { meta.nlink() };
    let size = if meta.is_dir() { 0 } else { meta.len() };
    format!(
        "{:o} {} {} {} {links} {size} {content}",
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.rdev()
    )
}

/// Names below `root`, with what is of them.
fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(next) = todo.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            found.insert(name, description(&path));
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                todo.push(path);
            }
        }
    }
    found
}

/// Two layers: whiteouts, an opaque directory, hard and symbolic links, a hole, devices, owners, a
/// capability. The image has what umoci makes of them, file by file, and the same bytes twice.
#[test]
fn layers_become_what_umoci_makes_of_them() {
    let mut made = Made::new();
    made.layer(&[], |root| {
        fs::write(root.join("gone"), "1").unwrap();
        fs::write(root.join("kept"), "2").unwrap();
        fs::create_dir_all(root.join("opaque/below")).unwrap();
        fs::write(root.join("opaque/below/old"), "3").unwrap();
        fs::hard_link(root.join("kept"), root.join("linked")).unwrap();
        symlink("../kept", root.join("opaque/link")).unwrap();
        let sparse = fs::File::create(root.join("sparse")).unwrap();
        sparse.set_len(3 << 20).unwrap();
        fs::write(root.join("program"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(root.join("program"), fs::Permissions::from_mode(0o4755)).unwrap();
        cmd!("chown", "-h", "1000:1001", root.join("program")).run().unwrap();
        cmd!("mknod", root.join("null"), "c", "1", "3").run().unwrap();
        // cap_net_raw+ep as the kernel keeps it (struct vfs_ns_cap_data, revision 2).
        attribute(
            &root.join("kept"),
            c"security.capability",
            &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        );
        attribute(&root.join("sparse"), c"user.note", b"x");
    });
    made.layer(&[], |root| {
        fs::write(root.join(".wh.gone"), "").unwrap();
        fs::create_dir(root.join("opaque")).unwrap();
        fs::write(root.join("opaque/.wh..wh..opq"), "").unwrap();
        fs::write(root.join("opaque/new"), "4").unwrap();
    });
    let layout = made.finish(serde_json::json!({
        "Entrypoint": ["/program"], "Cmd": ["a"], "Env": ["A=b"], "WorkingDir": "/opaque",
        "User": "7:8",
    }));
    let home = tempfile::tempdir().unwrap();
    let cache = Cache::at(&home.path().join("one")).unwrap();
    let image = ensure(&cache, &Source::Oci(layout.clone()), false).unwrap();
    let recipe = &image.recipe;
    assert_eq!((&*recipe.entrypoint, &*recipe.cmd), (&["/program".into()][..], &["a".into()][..]));
    assert_eq!((recipe.uid, recipe.gid, &*recipe.cwd), (7, 8, "/opaque"));
    assert!(recipe.env.contains(&"A=b".into()) && recipe.env[1].starts_with("PATH="));

    let again = Cache::at(&home.path().join("two")).unwrap();
    let again = ensure(&again, &Source::Oci(layout.clone()), false).unwrap();
    assert!(fs::read(&again.path).unwrap() == fs::read(&image.path).unwrap());

    let theirs = home.path().join("theirs");
    let parsed = Layout::open(&layout).unwrap();
    let theirs = parsed.unpack(&theirs).unwrap();
    let ours = home.path().join("ours");
    let extract = format!("--extract={}", ours.display());
    cmd!("fsck.erofs", extract, "--preserve", "--force", &image.path)
        .stdout_null()
        .stderr_null()
        .run()
        .unwrap();
    let (ours, theirs) = (tree(&ours), tree(&theirs));
    for name in ["kept", "linked", "opaque/new", "sparse", "null"] {
        assert!(theirs.contains_key(name), "{name} of {theirs:#?}");
    }
    for name in ["gone", "opaque/below", "opaque/link"] {
        assert!(!ours.contains_key(name), "{name}");
    }
    // fsck.erofs makes files of hard links, and writes no extended attributes.
    let plain = |tree: &BTreeMap<String, String>| -> BTreeMap<String, String> {
        let cut = |text: &String| {
            let mut words: Vec<&str> = text.split(' ').take(7).collect();
            words[4] = "";
            words.join(" ")
        };
        tree.iter().map(|(name, text)| (name.clone(), cut(text))).collect()
    };
    assert_eq!(plain(&ours), plain(&theirs));
    let dump = |path: &str| {
        let path = format!("--path=/{path}");
        cmd!("dump.erofs", path, &image.path).read().unwrap()
    };
    for name in ["kept", "sparse"] {
        // An inode with attributes has a size of them that is not 0.
        assert!(dump(name).contains("Xattr size: "), "{}", dump(name));
        assert!(!dump(name).contains("Xattr size: 0"), "{}", dump(name));
    }
    let nid = |name| {
        dump(name).split("NID: ").nth(1).map(|t| t.split_whitespace().next().map(str::to_owned))
    };
    assert_eq!(nid("kept"), nid("linked"), "a hard link");
}

#[test]
fn what_is_wrong_is_named_and_nothing_is_left() {
    let home = tempfile::tempdir().unwrap();
    let cache = Cache::at(home.path()).unwrap();
    assert!(error(&cache, "/nowhere:tag").contains("no such directory"));
    let empty = tempfile::tempdir().unwrap();
    assert!(error(&cache, empty.path().to_str().unwrap()).contains("no OCI layout"));

    let mut made = Made::new();
    made.layer(&[], |root| fs::write(root.join("a"), "1").unwrap());
    let layout = made.finish(serde_json::json!({}));
    assert!(error(&cache, &format!("{layout}:other")).contains("no image is tagged other"));
    let layer = made.blob_path(&made.layers[0]);
    let bytes = fs::read(&layer).unwrap();
    fs::write(&layer, [&bytes[..], b"x"].concat()).unwrap();
    let text = error(&cache, &layout);
    assert!(text.contains("is damaged") && text.contains(&made.layers[0].digest), "{text}");
    fs::remove_file(&layer).unwrap();
    let text = error(&cache, &layout);
    assert!(text.contains("is missing") && text.contains(&made.layers[0].digest), "{text}");
    fs::write(Path::new(&layout).join("index.json"), "{").unwrap();
    assert!(error(&cache, &layout).contains("index.json"));

    // No archive at all, with a digest that is right.
    let mut made = Made::new();
    let layer = made.blob("layer.v1.tar", &[7; 1024]);
    made.layers.push(layer);
    assert!(error(&cache, &made.finish(serde_json::json!({}))).contains("umoci unpack"));

    // Nobody by that name.
    let mut made = Made::new();
    made.layer(&[], |root| fs::write(root.join("a"), "1").unwrap());
    let text = error(&cache, &made.finish(serde_json::json!({"User": "nobody-here"})));
    assert!(text.contains("nobody-here is not in its /etc/passwd"), "{text}");
}

/// A layer that climbs out of the root writes nothing there.
#[test]
fn no_layer_leaves_the_root() {
    let home = tempfile::tempdir().unwrap();
    let cache = Cache::at(&home.path().join("a/cache")).unwrap();
    let mut made = Made::new();
    let climb = format!("--transform=s,^./evil,{}climbed,", "../".repeat(30));
    made.layer(&[&climb], |root| fs::write(root.join("evil"), "1").unwrap());
    made.layer(&[], |root| symlink("/", root.join("door")).unwrap());
    made.layer(&["--transform=s,^./evil,./door/climbed-2,"], |root| {
        fs::write(root.join("evil"), "2").unwrap();
    });
    let made = ensure(&cache, &Source::Oci(made.finish(serde_json::json!({}))), false);
    assert!(!Path::new("/climbed").exists() && !Path::new("/climbed-2").exists());
    if let Ok(image) = made {
        let text = cmd!("dump.erofs", "--ls", "--path=/", image.path).read().unwrap();
        assert!(text.contains("climbed"), "{text}");
    }
}

#[test]
fn archives_and_directories() {
    let home = tempfile::tempdir().unwrap();
    let cache = Cache::at(&home.path().join("cache")).unwrap();
    let root = home.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("a"), "1").unwrap();
    let archive = home.path().join("root.tar");
    cmd!("tar", "-C", &root, "-cf", &archive, ".").run().unwrap();
    let tar = ensure(&cache, &Source::Tar(archive), false).unwrap();
    let dir = ensure(&cache, &Source::Rootfs(root), false).unwrap();
    assert!(fs::read(tar.path).unwrap() == fs::read(dir.path).unwrap());
    assert_eq!(parse("oci:a:b").unwrap(), Source::Oci("a:b".into()));
    assert!(parse("docker:a").unwrap_err().to_string().contains("oci:LAYOUT:TAG"));
}
