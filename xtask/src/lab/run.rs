//! `cargo xtask run`: your own root file system in a VM, in one command.
//!
//! The root becomes an image, the micro kernel boots it, and our init (`xtask/guest/workload.rs`) mounts
//! it and runs the command, a shell, what a container's image names, or the root's own init.

use anyhow::{Context, Result, bail, ensure};
use argh::FromArgs;
use std::fs;
use std::io::{self, IsTerminal};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use self::format::{Format, Place};
use crate::build::scenario::Workload;
use crate::build::{self, bundle};
use crate::cache::{self, Cache};
use crate::guest::oci::{self, Recipe, Source};
use crate::guest::{Kernel, images, init, kernel};
use crate::lab::boot::place;
use crate::lab::{self, Io, On, command, quote};
use crate::{debian, paths};

mod format;

/// Boot a root file system of your own: cargo xtask run --root DIR -- CMD…
///
/// Shows what CMD prints and ends with its exit status. Without CMD, runs what a container's image names,
/// or the root's own init (/sbin/init); where a directory has none, a shell. Ctrl-C is the guest's; Ctrl-A x
/// ends brisk, and Ctrl-] the lab.
#[derive(FromArgs)]
#[argh(subcommand, name = "run")]
pub struct Args {
    /// a directory, a tar archive, an image (EROFS, ext4, XFS; alone or in the first partition), or an OCI
    /// layout, LAYOUT or LAYOUT:TAG
    #[argh(option)]
    root: String,
    /// micro (default), micro-smp, guest, or a vmlinux with the drivers built in
    #[argh(option, default = "Kernel::Own(kernel::Config::Micro)")]
    kernel: Kernel,
    /// the image as a virtio-blk disk
    #[argh(switch)]
    disk: bool,
    /// the image as a virtio-pmem (default)
    #[argh(switch)]
    pmem: bool,
    /// what is written goes to the image and stays; a directory becomes an ext4 image for it, which is named.
    /// By default it goes to the guest's memory and is gone at its end
    #[argh(switch)]
    writable: bool,
    /// on a terminal: CMD, or /bin/sh
    #[argh(switch)]
    shell: bool,
    /// the guest's memory (default 512M)
    #[argh(option, default = "\"512M\".to_owned()")]
    memory: String,
    /// print brisk's command line, and run nothing
    #[argh(switch)]
    print: bool,
    /// host: this machine's KVM; lab: L1's; by default the host's if it can run a Linux
    #[argh(option)]
    on: Option<On>,
    /// the command and its arguments
    #[argh(positional, greedy)]
    command: Vec<String>,
}

/// Where a root's own init is looked for, as the kernel does.
const INITS: [&str; 4] = ["/sbin/init", "/etc/init", "/bin/init", "/init"];
/// The kernel says nothing but panics: the console is the workload's.
const CMDLINE: &str = "console=hvc0 loglevel=1";
/// Room on a writable image besides what is in it, in MiB.
const ROOM: u64 = 256;

/// An image, and what is known of what is in it.
struct Root {
    path: PathBuf,
    place: Place,
    recipe: Recipe,
    /// Whether it has an init of its own, where that is known.
    has_init: Option<bool>,
}

/// Who has the console.
enum Way {
    /// The root's own init, as process 1.
    Init,
    /// The command, as a terminal.
    Terminal,
    /// The command, by its standard streams.
    Streams,
}

/// Runs the task: ends with the command's exit status, or brisk's.
///
/// # Errors
/// The root or the kernel is not what it should be, or something could not be built.
pub fn run(args: &Args) -> Result<ExitCode> {
    ensure!(!args.disk || !args.pmem, "give one of --disk and --pmem");
    if let Kernel::Stock(stock) = args.kernel {
        bail!(
            "--kernel {0}: its drivers are modules, in an initramfs of its own; cargo xtask boot --kernel \
             {0} boots it",
            stock.name
        );
    }
    // What can be said at once is said before anything is built.
    let terminal = args.print || io::stdin().is_terminal();
    ensure!(
        !args.shell || terminal,
        "--shell: standard input is no terminal; for a pipe or a file: -- /bin/sh"
    );
    let source = format::source(&args.root)?;
    debian::ensure(debian::BOOT)?;
    debian::ensure(debian::IMAGES)?;
    let cache = Cache::open()?;
    let root = root(&cache, args, source, &own_dir()?)?;
    let (way, config) = config(args, &root, terminal)?;
    let on = if args.print { On::Host } else { place(args.on)? };
    let initramfs = initramfs(&cache, &config)?;
    let kernel = match &args.kernel {
        Kernel::Own(config) => kernel::ensure(&cache, *config)?.vmlinux,
        Kernel::File(path) => path.canonicalize()?,
        Kernel::Stock(stock) => stock.ensure(&cache)?.vmlinuz,
    };
    let brisk = build::program(None)?;
    let words = words(args, &kernel, &initramfs, &root, &way);
    if args.print {
        println!("{} {}", quote(&brisk.to_string_lossy()), shell_words(&words));
        return Ok(ExitCode::SUCCESS);
    }
    match on {
        On::Host => Err(Command::new(&brisk).args(words).exec()).context("cannot run brisk"),
        On::Lab => in_lab(args, &brisk, &words, &root, &way),
    }
}

/// What the Linux tests get: names of variables and files. Each but the image has brisk's words for a root
/// with busybox, one a line.
///
/// # Errors
/// Something cannot be built.
pub fn for_tests(cache: &Cache) -> Result<Vec<(&'static str, PathBuf)>> {
    const SCRIPT: &str = "echo out; echo err >&2; cat; echo new > /file; cat /file; exit 7";
    const INIT: &str = "#!/bin/sh\necho own init is $$\necho written > /file\ncat /file\n\
                        exec /bin/busybox poweroff -f\n";
    let dir = own_dir()?.join("tests");
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    let tree = dir.join("root");
    fs::create_dir_all(tree.join("bin"))?;
    fs::copy("/bin/busybox", tree.join("bin/busybox")).context("busybox-static")?;
    for name in ["sh", "cat", "stty", "tty", "sleep"] {
        std::os::unix::fs::symlink("busybox", tree.join("bin").join(name))?;
    }
    let kernel = kernel::ensure(cache, kernel::Config::Micro)?.vmlinux;
    let text = tree.to_string_lossy().into_owned();
    let mut made = Vec::new();
    for (name, flags) in [
        ("BRISK_RUN_COMMAND", &["--", "/bin/sh", "-c", SCRIPT][..]),
        ("BRISK_RUN_DISK", &["--disk", "--", "sh", "-c", SCRIPT]),
        ("BRISK_RUN_SHELL", &["--shell"]),
        (
            "BRISK_RUN_WRITABLE",
            &["--disk", "--writable", "--", "sh", "-c", "echo kept >> /k; cat /k"],
        ),
        ("BRISK_RUN_INIT", &[]),
    ] {
        if name == "BRISK_RUN_INIT" {
            use std::os::unix::fs::PermissionsExt;
            fs::create_dir(tree.join("sbin"))?;
            fs::write(tree.join("sbin/init"), INIT)?;
            fs::set_permissions(tree.join("sbin/init"), fs::Permissions::from_mode(0o755))?;
        }
        let given = [&["--root", &text], flags].concat();
        let args =
            Args::from_args(&["run"], &given).map_err(|exit| anyhow::anyhow!(exit.output))?;
        let root = root(cache, &args, format::source(&args.root)?, &dir)?;
        let (way, config) = config(&args, &root, true)?;
        let words = words(&args, &kernel, &initramfs(cache, &config)?, &root, &way);
        let path = dir.join(name);
        fs::write(&path, words.join("\n") + "\n")?;
        made.push((name, path));
        if args.writable {
            made.push(("BRISK_RUN_IMAGE", root.path));
        }
    }
    Ok(made)
}

/// The image that `source` is, or is made of; one that can be written to is made in `own`.
fn root(cache: &Cache, args: &Args, source: Source, own: &Path) -> Result<Root> {
    let has_init = match &source {
        // A link, as Debian's to systemd, may be an absolute one.
        Source::Rootfs(dir) => Some(
            INITS
                .iter()
                .any(|init| fs::symlink_metadata(dir.join(init.trim_start_matches('/'))).is_ok()),
        ),
        _ => None,
    };
    let (path, recipe) = match (&source, args.writable) {
        (Source::Image(path), _) => (path.clone(), recipe_of(path)?),
        (Source::Rootfs(dir), true) => (writable_image(dir, own)?, oci::bare()),
        (_, true) => bail!(
            "--writable --root {}: unpack it and give the directory, or give an image of ext4 or XFS",
            args.root
        ),
        (_, false) => {
            let image = oci::ensure(cache, &source, false)?;
            (image.path, image.recipe)
        }
    };
    let place = format::place(&path)?;
    ensure!(
        !args.writable || place.format != Format::Erofs,
        "--writable --root {}: EROFS cannot be written to; without --writable what is written goes to \
         memory",
        args.root
    );
    Ok(Root { path, place, recipe, has_init })
}

/// What an image says that is to be run in it, where `cargo xtask image` made it.
fn recipe_of(image: &Path) -> Result<Recipe> {
    let mut name = image.as_os_str().to_owned();
    name.push(".json");
    match fs::read(&name) {
        Ok(text) => serde_json::from_slice(&text).with_context(|| format!("{}", name.display())),
        Err(_) => Ok(oci::bare()),
    }
}

/// An ext4 image of a directory, in `own`; not over one that has what a run before wrote.
fn writable_image(dir: &Path, own: &Path) -> Result<PathBuf> {
    let name = dir.file_name().map_or("root".into(), |name| name.to_string_lossy());
    let out = own.join(format!("{name}.ext4"));
    let shown = out.display();
    ensure!(
        !out.exists(),
        "--writable --root {}: {shown} is there, with what was written to it; go on with --root {shown}, \
         or remove it",
        dir.display()
    );
    let bytes = duct::cmd!("du", "-s", "-k", dir).read().context("cannot run du")?;
    let used: u64 = bytes.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0);
    // Whole or not at all. Small files take a block each, and the tables their part.
    let part = out.with_extension("part");
    images::ext4(dir, &part, 0, (used / 1024 * 5 / 4 + ROOM).next_multiple_of(2))?;
    fs::rename(&part, &out)?;
    eprintln!("run: what is written stays in {shown}; go on with --root of it");
    Ok(out)
}

/// Where `run` has its files.
fn own_dir() -> Result<PathBuf> {
    let dir = paths::target()?.join("run");
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// What our init is to do, and who has the console; a shell that nobody asked for is at the terminal, if
/// there is one.
fn config(args: &Args, root: &Root, terminal: bool) -> Result<(Way, Vec<u8>)> {
    let mut recipe = root.recipe.clone();
    let named = !recipe.entrypoint.is_empty() || !recipe.cmd.is_empty();
    let way = match (args.shell, args.command.is_empty()) {
        (true, _) => Way::Terminal,
        (false, false) => Way::Streams,
        (false, true) if named => Way::Streams,
        (false, true) if root.has_init == Some(false) && terminal => Way::Terminal,
        (false, true) if root.has_init == Some(false) => Way::Streams,
        (false, true) => Way::Init,
    };
    if !args.command.is_empty() {
        (recipe.entrypoint, recipe.cmd) = (args.command.clone(), Vec::new());
    } else if !named && !matches!(way, Way::Init) || args.shell {
        (recipe.entrypoint, recipe.cmd) = (vec!["/bin/sh".to_owned()], Vec::new());
    }
    let writable = if args.writable { "no" } else { "tmpfs" };
    let workload = Workload { writable: Some(writable.to_owned()), ..Workload::default() };
    let device = match (args.disk, root.place.partition) {
        (true, false) => "/dev/vda",
        (true, true) => "/dev/vda1",
        (false, false) => "/dev/pmem0",
        (false, true) => "/dev/pmem0p1",
    };
    // The first line of a key is the one that holds.
    let mut lines = format!("root={device}\0type={}\0", root.place.format.name());
    if args.writable {
        lines += "writable=image\0";
    }
    match way {
        Way::Terminal => lines += "terminal=yes\0",
        Way::Init => lines.extend(INITS.iter().map(|init| format!("init={init}\0"))),
        Way::Streams => {}
    }
    if let Ok(term) = std::env::var("TERM")
        && !matches!(way, Way::Streams)
    {
        recipe.env.push(format!("TERM={term}"));
    }
    let mut config = lines.into_bytes();
    config.extend(bundle::config(&recipe, &workload, "brisk")?);
    Ok((way, config))
}

/// An initramfs of our init and its configuration. The same content has the same name.
fn initramfs(cache: &Cache, config: &[u8]) -> Result<PathBuf> {
    let bytes = init::workload(&init::ensure(cache)?, config)?;
    let sum = cache::sum(&bytes);
    let path = own_dir()?.join(format!("initramfs-{}", sum.get(..16).unwrap_or(&sum)));
    if !path.exists() {
        let part = path.with_extension(format!("{}", std::process::id()));
        fs::write(&part, bytes)?;
        fs::rename(&part, &path)?;
    }
    Ok(path)
}

/// brisk's arguments.
fn words(args: &Args, kernel: &Path, initramfs: &Path, root: &Root, way: &Way) -> Vec<String> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let image = paths::flag(&text(&root.path));
    let mut words =
        vec!["--kernel".to_owned(), text(kernel), "--initramfs".into(), text(initramfs)];
    words.extend(match (args.disk, args.writable) {
        (true, true) => ["--disk".into(), format!("path={image}")],
        (true, false) => ["--disk".into(), format!("path={image},readonly=on")],
        (false, true) => ["--pmem".into(), format!("file={image}")],
        (false, false) => ["--pmem".into(), format!("file={image},discard_writes=on")],
    });
    words.extend(["--memory".into(), format!("size={}", args.memory)]);
    words.extend(["--cmdline".into(), CMDLINE.into(), "--console".into()]);
    words.push(if matches!(way, Way::Streams) { "streams" } else { "tty" }.into());
    if !matches!(way, Way::Init) {
        words.push("--exit-status".into());
    }
    words
}

fn in_lab(args: &Args, brisk: &Path, words: &[String], root: &Root, way: &Way) -> Result<ExitCode> {
    let mut job = command::own();
    if matches!(way, Way::Streams) {
        // As a pipe has it, whatever the caller's are.
        job.io = Io::Own { terminal: false };
    }
    job.script = format!("{} {}", quote(&brisk.to_string_lossy()), shell_words(words));
    if args.writable {
        let dir = root.path.canonicalize()?;
        job.kept.extend(dir.parent().map(Path::to_owned));
    }
    let output = lab::run(&job)?;
    Ok(ExitCode::from(u8::try_from(output.status).unwrap_or(1)))
}

fn shell_words(words: &[String]) -> String {
    words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a run before wrote is not written over by the same command.
    #[test]
    fn an_image_that_was_written_to_stays() {
        let own = tempfile::tempdir().unwrap();
        let tree = own.path().join("tree");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("file"), "content").unwrap();
        let image = writable_image(&tree, own.path()).unwrap();
        assert_eq!(image, own.path().join("tree.ext4"));
        assert_eq!(format::place(&image).unwrap().format, Format::Ext4);
        fs::write(&image, "written").unwrap();
        let error = writable_image(&tree, own.path()).unwrap_err().to_string();
        assert!(error.contains("tree.ext4 is there, with what was written to it"), "{error}");
        assert_eq!(fs::read(&image).unwrap(), b"written");
        // What could not be made whole is not there.
        let nothing = own.path().join("nothing");
        assert!(writable_image(&nothing, own.path()).is_err());
        assert!(!own.path().join("nothing.ext4").exists());
    }
}
