//! `cargo xtask bundle`: a workload as one executable file that is a VM.
//!
//! The file is brisk itself, and behind it, each at a multiple of a page, its flags, its texts, the
//! kernel, an initramfs with our init and the workload's description, and the image. brisk finds them
//! by an index among its own variables (`src/bundle.rs`), maps the image and reads the rest out of
//! `/proc/self/exe`.

use anyhow::{Context, Result, bail, ensure};
use argh::FromArgs;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::build::scenario::{self, Scenario, Workload};
use crate::build::{self, Libc, Order, features};
use crate::cache::Cache;
use crate::guest::oci::{self, Recipe};
use crate::guest::{init, kernel, tree};
use crate::ui::Step;
use crate::{debian, paths};

mod about;
mod deploy;
mod elf;
pub mod examples;
mod file;
mod layout;

/// Make one executable of brisk, a kernel and an image: a VM that runs one workload.
#[derive(FromArgs)]
#[argh(subcommand, name = "bundle")]
pub struct Args {
    #[argh(option)]
    /// a scenario of your brisk.toml that has an `image`
    scenario: Option<String>,
    #[argh(option)]
    /// an OCI layout, LAYOUT or LAYOUT:TAG
    oci: Option<String>,
    #[argh(option)]
    /// a tar archive of a root directory
    tar: Option<PathBuf>,
    #[argh(option)]
    /// a root directory
    rootfs: Option<PathBuf>,
    #[argh(option)]
    /// an image that `cargo xtask image` made
    image: Option<PathBuf>,
    #[argh(switch)]
    /// the example workload that comes with brisk, which greets
    hello: bool,
    #[argh(option)]
    /// the executable (default: the scenario's name, or app)
    out: Option<PathBuf>,
    #[argh(option)]
    /// micro, guest, or a vmlinux (default micro)
    kernel: Option<String>,
    #[argh(option)]
    /// the guest's memory (default 128M)
    memory: Option<String>,
    #[argh(option)]
    /// NAME=VALUE in the workload's environment; may be repeated
    env: Vec<String>,
    #[argh(option)]
    /// a word of the workload's command, instead of the image's; may be repeated
    command: Vec<String>,
    #[argh(option)]
    /// an argument where none is given to the executable, instead of the image's; may be repeated
    arg: Vec<String>,
    #[argh(option)]
    /// tmpfs: what is written goes to memory (default); no: nothing can be written; disk:FILE: it stays in
    /// FILE, which is where the executable is run and has an ext4 in it (mkfs.ext4)
    writable: Option<String>,
    #[argh(option)]
    /// more features for brisk, with commas between
    features: Option<String>,
    #[argh(option)]
    /// write an OCI image with the executable as its one file too: LAYOUT or LAYOUT:TAG
    oci_out: Option<String>,
    #[argh(option)]
    /// write files for systemd, Kubernetes, Nomad and Slurm into this directory too
    deploy: Option<PathBuf>,
}

/// Of what the bundle's brisk always is.
const FEATURES: &[&str] = &["bundle"];
/// Panics are printed and nothing else: the console is the workload's.
const CMDLINE: &str = "console=hvc0 loglevel=1";

/// What the parts of a bundle weigh, and the whole, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// The executable.
    pub all: u64,
    /// The VMM.
    pub brisk: u64,
    /// The kernel, packed.
    pub kernel: u64,
    /// The initramfs with our init.
    pub init: u64,
    /// The image.
    pub image: u64,
}

/// All that a bundle is made of.
struct Parts {
    name: String,
    brisk: Vec<u8>,
    flags: String,
    help: String,
    manifest: String,
    kernel: Vec<u8>,
    initramfs: Vec<u8>,
    image: PathBuf,
}

/// Runs the task.
///
/// # Errors
/// The image or the scenario is wrong, or something does not build.
pub fn run(args: &Args) -> Result<ExitCode> {
    debian::ensure(debian::IMAGES)?;
    let known = features::of_brisk()?;
    let (name, workload) = match &args.scenario {
        None => ("app".to_owned(), Workload::default()),
        Some(name) => {
            let found = scenario::find(name, &known.names())?;
            let workload = found.workload.with_context(|| {
                format!("--scenario {name}: names no `image`, which a bundle is made of")
            })?;
            (found.name, workload)
        }
    };
    let workload = with_flags(workload, args)?;
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from(&name));
    let name = out.file_name().map_or(name, |name| name.to_string_lossy().into_owned());
    let cache = Cache::open()?;
    let image = match &workload.image {
        Some(text) => {
            let source = oci::parse(text)?;
            if let (oci::Source::Rootfs(root), Some([program, ..])) =
                (&source, workload.command.as_deref())
            {
                ensure!(
                    !program.starts_with('/') || tree::has(root, Path::new(program)),
                    "--command {program}: no such file in {}; each word of a command is a --command of \
                     its own",
                    root.display()
                );
            }
            oci::ensure(&cache, &source, false)?
        }
        None if args.hello => examples::hello_image(&cache)?,
        None => bail!("give one of --scenario, --oci, --tar, --rootfs, --image and --hello"),
    };
    let sizes = make(&cache, &name, &workload, image, &out)?;
    println!(
        "{}: {} bytes: brisk {}, kernel {}, init {}, image {}",
        out.display(),
        sizes.all,
        sizes.brisk,
        sizes.kernel,
        sizes.init,
        sizes.image
    );
    if let Some(reference) = &args.oci_out {
        layout::write(reference, &out, &name)?;
    }
    if let Some(directory) = &args.deploy {
        deploy::write(directory, &out, &name)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Where what a bundle is made of comes from.
struct Origin<'a> {
    /// Of our init.
    cache: &'a Cache,
    /// Of kernels.
    kernels: &'a Cache,
    /// brisk's source.
    source: &'a Path,
    /// Where it is built.
    target_dir: &'a Path,
}

/// Makes the executable `out`; answers the sizes of its parts.
fn make(
    cache: &Cache,
    name: &str,
    workload: &Workload,
    image: oci::Image,
    out: &Path,
) -> Result<Sizes> {
    let (source, target_dir) = (paths::workspace(), &paths::target()?);
    let origin = Origin { cache, kernels: cache, source, target_dir };
    make_from(&origin, name, workload, image, out)
}

fn make_from(
    origin: &Origin<'_>,
    name: &str,
    workload: &Workload,
    image: oci::Image,
    out: &Path,
) -> Result<Sizes> {
    let known = features::of_brisk()?;
    let recipe = recipe(image.recipe, workload);
    ensure!(
        !recipe.entrypoint.is_empty() || !recipe.cmd.is_empty(),
        "the image names no command; give one by --command WORD (or `command` in brisk.toml)"
    );
    let config = config(&recipe, workload, name)?;
    let guest = init::ensure(origin.cache)?;
    let kernel = kernel(origin.kernels, workload.kernel.as_deref().unwrap_or("micro"))?;
    let mut wanted: BTreeSet<String> = FEATURES.iter().map(|f| (*f).to_owned()).collect();
    wanted.extend(workload.features.iter().cloned());
    wanted.extend(workload.disk().map(|_| "block".to_owned()));
    let list = wanted.into_iter().collect::<Vec<_>>().join(",");
    let scenario = build::adhoc(&list, &known.names())?;
    let brisk = program(origin, &scenario)?;
    let memory = workload.memory.clone().unwrap_or_else(|| "128M".to_owned());
    let mut parts = Parts {
        flags: flags(&memory, workload),
        help: String::new(),
        manifest: String::new(),
        initramfs: init::workload(&guest, &config)?,
        name: name.to_owned(),
        brisk,
        kernel,
        image: image.path,
    };
    let features = known.closure(&scenario.features);
    let manifest = about::manifest(&parts, &recipe, &memory, &features, &known.version)?;
    parts.help = about::help(&parts, &recipe, &manifest);
    parts.manifest = serde_json::to_string_pretty(&manifest)? + "\n";
    file::write(&parts, out)?;
    Ok(Sizes {
        all: fs::metadata(out)?.len(),
        brisk: parts.brisk.len() as u64,
        kernel: parts.kernel.len() as u64,
        init: parts.initramfs.len() as u64,
        image: fs::metadata(&parts.image)?.len(),
    })
}

/// What the command line says goes before the file.
fn with_flags(mut workload: Workload, args: &Args) -> Result<Workload> {
    let path = |kind: &str, path: &PathBuf| format!("{kind}:{}", path.display());
    let given: Vec<String> = [
        args.oci.as_ref().map(|text| format!("oci:{text}")),
        args.tar.as_ref().map(|p| path("tar", p)),
        args.rootfs.as_ref().map(|p| path("rootfs", p)),
        args.image.as_ref().map(|p| path("image", p)),
    ]
    .into_iter()
    .flatten()
    .collect();
    ensure!(given.len() + usize::from(args.hello) <= 1, "give one image");
    workload.image = given.into_iter().next().or(workload.image);
    workload.kernel = args.kernel.clone().or(workload.kernel);
    workload.memory = args.memory.clone().or(workload.memory);
    workload.writable = args.writable.clone().or(workload.writable);
    workload.env.extend(args.env.iter().cloned());
    if !args.command.is_empty() {
        workload.command = Some(args.command.clone());
    }
    if !args.arg.is_empty() {
        workload.args = Some(args.arg.clone());
    }
    let more = args.features.iter().flat_map(|list| list.split(','));
    workload.features.extend(more.filter(|f| !f.is_empty()).map(str::to_owned));
    scenario::check(&workload)?;
    Ok(workload)
}

/// The image's recipe with what the workload says otherwise.
fn recipe(mut recipe: Recipe, workload: &Workload) -> Recipe {
    if let Some(command) = &workload.command {
        recipe.entrypoint.clone_from(command);
        recipe.cmd.clear();
    }
    if let Some(args) = &workload.args {
        if recipe.entrypoint.is_empty() {
            recipe.entrypoint = std::mem::take(&mut recipe.cmd);
        }
        recipe.cmd.clone_from(args);
    }
    for pair in &workload.env {
        let key = pair.split('=').next().unwrap_or(pair);
        recipe.env.retain(|old| old.split('=').next() != Some(key));
        recipe.env.push(pair.clone());
    }
    recipe
}

/// What the guest's init reads (`xtask/guest/workload.rs`).
///
/// # Errors
/// A value has a NUL in it.
pub fn config(recipe: &Recipe, workload: &Workload, name: &str) -> Result<Vec<u8>> {
    let host: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    let (uid, gid) = (recipe.uid.to_string(), recipe.gid.to_string());
    let writable = match workload.disk() {
        Some(_) => "disk",
        None => workload.writable.as_deref().unwrap_or("tmpfs"),
    };
    let mut lines = vec![
        ("root", "/dev/pmem0"),
        ("type", "erofs"),
        ("writable", writable),
        ("hostname", if host.is_empty() { "brisk" } else { &host }),
        ("uid", &uid),
        ("gid", &gid),
        ("cwd", &recipe.cwd),
    ];
    let groups: Vec<String> = recipe.groups.iter().map(u32::to_string).collect();
    lines.extend(groups.iter().map(|group| ("group", group.as_str())));
    lines.extend(recipe.env.iter().map(|pair| ("env", pair.as_str())));
    // An image without an entrypoint is its command, which gets the arguments as any program does.
    let (command, arguments) = match recipe.entrypoint.is_empty() {
        true => (&recipe.cmd, &[][..]),
        false => (&recipe.entrypoint, &recipe.cmd[..]),
    };
    lines.extend(command.iter().map(|word| ("command", word.as_str())));
    lines.extend(arguments.iter().map(|word| ("argument", word.as_str())));
    let mut text = Vec::new();
    for (key, value) in lines {
        ensure!(!value.contains('\0'), "{key}: a NUL in {value:?}");
        text.extend(format!("{key}={value}\0").into_bytes());
    }
    Ok(text)
}

/// brisk's flags, as `scenario::baked` has them.
fn flags(memory: &str, workload: &Workload) -> String {
    let own = "/proc/self/exe";
    let mut words: Vec<String> = ["--kernel", own, "--initramfs", own].map(Into::into).into();
    words.extend(["--console", "streams", "--exit-status"].map(Into::into));
    words.extend(["--cmdline".to_owned(), CMDLINE.to_owned()]);
    let thp = if workload.features.iter().any(|f| f == "thp") { ",thp=on" } else { "" };
    words.extend(["--memory".to_owned(), format!("size={memory}{thp}")]);
    if let Some(disk) = workload.disk() {
        words.extend(["--disk".to_owned(), format!("path={}", paths::flag(disk))]);
    }
    scenario::baked(&words)
}

/// A kernel by its name here or by its file, packed.
fn kernel(cache: &Cache, name: &str) -> Result<Vec<u8>> {
    let path = match name.parse::<kernel::Config>() {
        Ok(config) => {
            debian::ensure(debian::BOOT)?;
            kernel::ensure(cache, config)?.vmlinux
        }
        Err(names) if !Path::new(name).exists() => bail!("--kernel {names}; and no such file"),
        Err(_) => PathBuf::from(name),
    };
    let bytes = fs::read(&path).with_context(|| format!("--kernel {}", path.display()))?;
    elf::pack(&bytes).with_context(|| format!("--kernel {}", path.display()))
}

/// brisk, static.
fn program(origin: &Origin<'_>, scenario: &Scenario) -> Result<Vec<u8>> {
    let step = Step::start(&format!("building brisk with {}", scenario.name));
    let (source, target_dir, target) = (origin.source, origin.target_dir, build::TARGET);
    let product = build::make(&Order { source, target_dir, scenario, libc: Libc::Musl, target })?;
    step.done();
    Ok(product.program)
}
