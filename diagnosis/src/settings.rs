//! The settings of `fargate.toml` that remedies name. A test of the driver compares them with the
//! keys that its configuration knows.

/// Declares the settings: [`ALL`], and the macro `setting!`, which expands to a setting's name as a
/// literal.
macro_rules! settings {
    ($($name:ident = $table:literal, $key:literal;)*) => {
        /// Table and key of each.
        pub const ALL: &[(&str, &str)] = &[$(($table, $key)),*];

        /// A setting as remedies name it: `[Table] Key`.
        macro_rules! setting {
            $(($name) => { concat!("[", $table, "] ", $key) };)*
        }
    };
}

settings! {
    cluster = "Fargate", "Cluster";
    region = "Fargate", "Region";
    subnets = "Fargate", "Subnets";
    security_groups = "Fargate", "SecurityGroups";
    task_definition = "Fargate", "TaskDefinition";
    enable_public_ip = "Fargate", "EnablePublicIP";
    use_public_ip = "Fargate", "UsePublicIP";
    platform_version = "Fargate", "PlatformVersion";
    launch_type = "Fargate", "LaunchType";
    capacity_providers = "Fargate", "CapacityProviders";
    container_name = "Fargate", "ContainerName";
    manager = "TaskMetadata", "Manager";
    keep = "TaskMetadata", "Keep";
    keep_count = "TaskMetadata", "KeepCount";
    username = "SSH", "Username";
    port = "SSH", "Port";
    keep_alive = "SSH", "KeepAlive";
    pending = "Deadlines", "Pending";
    reconnect = "Deadlines", "Reconnect";
}
