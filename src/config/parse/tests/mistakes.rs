//! Mistakes in a file are named all at once, each with its location and what is expected.

use super::*;

#[test]
fn all_missing_settings_are_named_at_once() {
    let error = read("[Fargate]\nRegion = \"r\"\n").unwrap_err();
    for key in [
        "[Fargate] Cluster",
        "[Fargate] Subnet",
        "[Fargate] TaskDefinition",
        "[TaskMetadata] Directory",
    ] {
        assert!(error.contains(key), "{error}");
    }
}

#[test]
fn misplaced_and_misspelt_keys_are_named_for_missing_ones() {
    let error = read(&fargate("").replace("Cluster", "Clutser")).unwrap_err();
    assert!(
        error.contains("missing [Fargate] Cluster.")
            && error.contains("Clutser")
            && error.contains("Did you mean Cluster?"),
        "{error}"
    );
    let error =
        read("Cluster = 'c'\nSubnet = 's'\nTaskDefinition = 't'\nDirectory = '/m'\n").unwrap_err();
    for word in [
        "Line 1: the key Cluster",
        "It belongs under [Fargate].",
        "It belongs under [TaskMetadata].",
    ] {
        assert!(error.contains(word), "{error}");
    }
    let error = read("concurrent = 4\n[[runners]]\nname = 'r'\nexecutor = 'custom'\n").unwrap_err();
    assert!(error.contains("gitlab-runner's own file") && !error.contains("concurrent"), "{error}");
}

#[test]
fn only_the_default_files_error_mentions_the_flag() {
    let error = |path| Config::load(path).unwrap_err().to_string();
    assert!(!error(Some(Path::new("/no/such/fargate.toml"))).contains("Name it"));
    assert!(
        error(None).contains("config.toml cannot be read")
            && error(None).contains("Name it with --config"),
        "{}",
        error(None)
    );
}

#[test]
fn settings_of_fargate_alone_are_refused_on_instances() {
    let providers = "CapacityProviders = [{ Name = \"gpu\", Weight = 1 }]";
    for (capacity, line) in [
        ("LaunchType = \"EC2\"", "PlatformVersion = \"1.4.0\""),
        ("LaunchType = \"EC2\"", "AllowedPlatformVersions = []"),
        ("LaunchType = \"EC2\"", "EnablePublicIP = true"),
        ("LaunchType = \"EC2\"", "UsePublicIP = true"),
        (providers, "PlatformVersion = \"1.4.0\""),
    ] {
        let key = line.split(' ').next().unwrap();
        let error = read(&fargate(&format!("{capacity}\n{line}"))).unwrap_err();
        let place = format!("fargate.toml:6:{}: {key} cannot be used with ", key.len() + 4);
        assert!(error.starts_with(&place), "{error}");
        assert!(error.contains("docs/launch-types.md"), "{error}");
        read(&fargate(line)).unwrap();
    }
    let sizes = format!("{}[Sizes]\nMaxEphemeralStorage = 50\n", fargate(providers));
    assert!(read(&sizes).unwrap_err().contains("MaxEphemeralStorage cannot be used with"));
    let (_, warnings) = read(&fargate(&format!("{providers}\nEnablePublicIP = true"))).unwrap();
    assert!(warnings.iter().any(|w| w.starts_with("line 6: ECS gives tasks")), "{warnings:?}");
    // What is off is not refused.
    read(&fargate("LaunchType = \"EC2\"\nEnablePublicIP = false\nPlatformVersion = \"\"")).unwrap();
}

#[test]
fn unknown_keys_are_warned_of_with_a_suggestion() {
    let text = fargate(
        "SecurtyGroup = \"sg\"\nColour = 1\nCapacityProviders = [{ Name = \"FARGATE\", Weight = 1, Wieght = 3 }]",
    );
    let (_, warnings) = read(&format!("LogLvl = \"x\"\n{text}[SHH]\nPort = 1\n")).unwrap();
    let expected = [
        "line 1: the key LogLvl is not known and is ignored. Did you mean LogLevel?",
        "line 6: the key [Fargate] SecurtyGroup is not known and is ignored. Did you mean SecurityGroup?",
        "line 7: the key [Fargate] Colour is not known and is ignored.",
        "line 8: the key CapacityProviders Wieght is not known and is ignored. Did you mean Weight?",
        "line 11: the key SHH is not known and is ignored. Did you mean SSH?",
    ];
    assert_eq!(warnings, expected);
}

#[test]
fn wrong_values_are_named_with_location_and_expectation() {
    let cases = [
        (
            "EnablePublicIP = \"yes\"",
            "fargate.toml:5:18: EnablePublicIP is a string, expected true or false",
        ),
        ("Region = 5", "fargate.toml:5:10: Region is a whole number, expected a string in quotes"),
        ("Subnets = \"s\"", "fargate.toml:5:11: Subnets is a string, expected a list of strings"),
        (
            "Subnets = [1]",
            "fargate.toml:5:12: Subnets is a whole number, expected a string in quotes",
        ),
        ("Tags = { \"aws:x\" = \"y\" }", "fargate.toml:5:10: the tag \"aws:x\" is refused by AWS"),
        ("Tags = { \"\" = \"y\" }", "fargate.toml:5:10: the tag \"\" is refused by AWS"),
        (
            "Tags = { team = \"AWS:y\" }",
            "fargate.toml:5:17: the value \"AWS:y\" of the tag \"team\" is refused by AWS",
        ),
        ("Tags = { team = \"e\\u0301\" }", "fargate.toml:5:17: the value"),
        (
            "PropagateTags = \"SERVICE\"",
            "fargate.toml:5:17: PropagateTags is \"SERVICE\", expected \"TASK_DEFINITION\" or \"NONE\"",
        ),
        (
            "EnableECSManagedTags = 1",
            "fargate.toml:5:24: EnableECSManagedTags is a whole number, expected true or false",
        ),
        (
            "AllowedPlatformVersions = \"1.4.0\"",
            "fargate.toml:5:27: AllowedPlatformVersions is a string, expected a list",
        ),
        (
            "CapacityProviders = [{ Name = \"FARGATE_SPOT\" }]",
            "fargate.toml:5:21: all entries of CapacityProviders have the weight 0",
        ),
        (
            "CapacityProviders = []",
            "fargate.toml:5:21: CapacityProviders has 0 entries, ECS takes 1 to 20",
        ),
        (
            "CapacityProviders = [{ Weight = 1 }]",
            "fargate.toml:5:22: an entry of CapacityProviders has no Name",
        ),
        (
            "CapacityProviders = [{ Name = \"F\", Weight = 1001 }]",
            "Weight is 1001, expected a whole number from 0 to 1000",
        ),
        (
            "LaunchType = \"FARGATE\"\nCapacityProviders = [{ Name = \"F\" }]",
            "fargate.toml:6:21: LaunchType and CapacityProviders exclude each other",
        ),
        (
            "LaunchType = \"EXTERNAL\"",
            "fargate.toml:5:14: LaunchType is \"EXTERNAL\", expected \"FARGATE\" or \"EC2\"",
        ),
        (
            "CapacityProviders = [{ Name = \"FARGATE\", Weight = 1 }, { Name = \"gpu\" }]",
            "fargate.toml:5:21: CapacityProviders has FARGATE and gpu: ECS takes either Fargate's",
        ),
        (
            "Tags = { \"fargate-driver:job\" = \"x\" }",
            "fargate.toml:5:10: the tag \"fargate-driver:job\" is the driver's own",
        ),
        (
            "cluster = \"again\"",
            "fargate.toml:5:1: the key [Fargate] cluster is here twice, expected once: it is Cluster on line 2",
        ),
        ("Region = \"a", "fargate.toml:5:12: this is not TOML"),
    ];
    for (line, expected) in cases {
        let error = read(&fargate(line)).unwrap_err();
        assert!(error.contains(expected), "{line}: {error}");
    }
    let below = [
        (
            "[SSH]\nPort = 70000",
            "fargate.toml:9:8: Port is 70000, expected a whole number from 0 to 65535",
        ),
        (
            "[Deadlines]\nPending = \"soon\"",
            "fargate.toml:9:11: Pending is \"soon\", expected a duration such as",
        ),
        (
            "[Deadlines]\nPending = 90",
            "fargate.toml:9:11: Pending is a whole number, expected a string in quotes",
        ),
    ];
    for (lines, expected) in below {
        let error = read(&(fargate("") + lines)).unwrap_err();
        assert!(error.contains(expected), "{lines}: {error}");
    }
    let top = [
        ("LogLevel = \"loud\"\n", "fargate.toml:1:12: LogLevel is \"loud\", expected one of"),
        (
            "LogFormat = \"xml\"\n",
            "fargate.toml:1:13: LogFormat is \"xml\", expected \"text\" or \"json\"",
        ),
        ("SSH = 1\n", "fargate.toml:1:7: SSH is not a table here, expected [SSH]"),
        (
            "Transport = \"telnet\"\n",
            "fargate.toml:1:13: Transport is \"telnet\", expected \"ssh\" or \"ecs-exec\"",
        ),
        (
            "Transport = true\n",
            "fargate.toml:1:13: Transport is true or false, expected a string in quotes",
        ),
        ("ECSExec = 1\n", "fargate.toml:1:11: ECSExec is not a table here, expected [ECSExec]"),
    ];
    for (line, expected) in top {
        let error = read(&format!("{line}{}", fargate(""))).unwrap_err();
        assert!(error.contains(expected), "{line}: {error}");
    }
}

#[test]
fn lines_are_counted_for_any_line_ending() {
    let error = read(&fargate("Region = 5").replace('\n', "\r\n")).unwrap_err();
    assert!(error.starts_with("fargate.toml:5:10"), "{error}");
}

#[test]
fn all_mistakes_of_the_file_are_reported_at_once() {
    let text = fargate("EnablePublicIP = 1\nLaunchType = \"EXTERNAL\"")
        .replace("Cluster", "Clutser")
        + "[SSH]\nPort = \"x\"\n";
    let error = read(&text).unwrap_err();
    for mistake in [
        "fargate.toml:5:18: EnablePublicIP",
        "fargate.toml:6:14: LaunchType",
        "fargate.toml:10:8: Port",
        "missing [Fargate] Cluster.",
    ] {
        assert!(error.contains(mistake), "{mistake}: {error}");
    }
    assert!(!error.contains("missing [SSH]"), "{error}");
}

#[test]
fn mistakes_of_pools_are_named_at_once_with_their_places() {
    let pools = r#"[[Warm]]
Schedule = [{ Days = "Mon-Fry", From = "7", To = "19:00", Timezone = "Europe/Berlln", Count = 501 }, { From = "07:00", To = "07:00" }]
Image = "node:22"
MaxAge = "10s"
[[Warm]]
CPU = 256
[[Warm]]
Count = 1
Cuont = 2
[[Warm]]
TaskDefinition = "t:1"
Count = 2
[[Warm]]
Name = "t:1"
PlatformVersion = "LATEST"
Count = 2
"#;
    let error = read(&(fargate("") + pools)).unwrap_err();
    for mistake in [
        "fargate.toml:9:22: Days is \"Mon-Fry\", expected days such as",
        "fargate.toml:9:40: From is \"7\", expected a time from",
        "Timezone is \"Europe/Berlln\", expected the name of a time zone",
        "Count is 501, expected a whole number from 0 to 500",
        "From and To are the same: for a whole day",
        "an entry of Schedule has no Count",
        "fargate.toml:10:9: Image needs Allowed in [Images]",
        "fargate.toml:11:10: MaxAge is 10s, expected a minute at least",
        "fargate.toml:12:1: a pool needs Count or Schedule",
        "fargate.toml:13:7: CPU needs MaxCpu in [Sizes]",
        "has the same tasks as that of line 14",
        "the pool of line 14 is called \"t:1\", too",
    ] {
        assert!(error.contains(mistake), "{mistake}: {error}");
    }
    let (_, warnings) = read(&(fargate("") + "[[Warm]]\nCount = 1\nCuont = 2\n")).unwrap();
    assert_eq!(
        warnings,
        ["line 10: the key [[Warm]] Cuont is not known and is ignored. Did you mean Count?"]
    );
    let error = read(&(fargate("") + "[Warm]\nCount = 1\n")).unwrap_err();
    assert!(error.contains("expected [[Warm]] on a line of its own"), "{error}");
    let sized = "[Sizes]\nMaxCpu = 512\n[[Warm]]\nCPU = 1024\nCount = 1\n";
    let error = read(&(fargate("") + sized)).unwrap_err();
    assert!(error.contains("CPU is 1024, and [Sizes] MaxCpu allows 512"), "{error}");
}

#[test]
fn each_mistake_is_listed_once() {
    let text = "LogLevel = 'loud'\n[Fargate]\nCluster = 7\nSubnets = 'x'\nTags = { 'aws:a' = '1' }\nCapacityProviders = []\nEnablePublicIP = 'yes'\n[SSH]\nPort = 70000\n";
    let mistakes = Config::mistakes(text, Path::new("fargate.toml"));
    let said: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    for word in [": LogLevel", ": Cluster", ": Subnets", "aws:a", ": CapacityProviders"]
        .into_iter()
        .chain([": EnablePublicIP", ": Port"])
    {
        let of_it = said.iter().filter(|line| line.contains(word));
        assert_eq!(of_it.count(), 1, "{word}: {said:#?}");
    }
    let missing = said.last().unwrap();
    assert!(missing.contains("TaskDefinition") && missing.contains("Directory"), "{missing}");
    assert!(
        !missing.contains("Cluster") && !missing.contains("Subnet"),
        "they are there: {missing}"
    );
    assert_eq!(said.len(), 8, "{said:#?}");
    assert_eq!(Config::mistakes("[[", Path::new("x")).len(), 1);
}
