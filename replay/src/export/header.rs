//! Pseudonyms in the header of a job and in its launch specification.

use std::net::IpAddr;

use states::{
    About, Additions, Capacity, CapacityProvider, ClientToken, ContainerImage, Header,
    JobContainer, JobId, LaunchSpec, Login, PUBLIC_KEY_VARIABLE, PoolRole, ServiceContainer,
    SharedVolume, StartedBy, WarmOrigin, task_tags,
};

use super::{
    fields::valid_id,
    pseudonyms::{Kind, Pseudonyms},
};

/// The container that has this name in every job.
const CONTAINER: &str = "ci-coordinator";
/// Prefixes of tags that the driver itself sets.
const TAG_PREFIXES: [&str; 2] = ["fargate-driver:", "gitlab:"];
/// The value of everything that is left out.
const LEFT_OUT: &str = "left out";

impl Pseudonyms {
    /// Replaces the names of a header. It comes first: it registers names that stand in free text.
    pub(super) fn header(&mut self, header: &Header) -> Header {
        let Header {
            id,
            about,
            created,
            token,
            spec,
            definition_from_project,
            connect_to,
            transport,
            login,
            host_proof,
            limits,
            trace: _,
            pool,
        } = header;
        let about = self.about(about);
        self.replace_in_text(id.as_str(), "job-1");
        self.replace_in_text(token.as_str(), "token-1");
        self.replace_in_text(spec.started_by.as_str(), "started-1");
        Header {
            id: valid_id(JobId::new("job-1")),
            about,
            created: *created,
            token: valid_id(ClientToken::new("token-1")),
            spec: self.spec(spec),
            definition_from_project: *definition_from_project,
            connect_to: *connect_to,
            transport: transport.clone(),
            login: login
                .as_ref()
                .map(|Login { user, port }| Login { user: self.text(user), port: *port }),
            host_proof: *host_proof,
            limits: *limits,
            trace: None,
            pool: pool.as_ref().map(|role| match role {
                PoolRole::Warm(WarmOrigin { pool, max_age }) => PoolRole::Warm(WarmOrigin {
                    pool: self.register(Kind::Name, pool),
                    max_age: *max_age,
                }),
                PoolRole::Missed { pool } => {
                    PoolRole::Missed { pool: self.register(Kind::Name, pool) }
                }
            }),
        }
    }

    fn about(&mut self, about: &About) -> About {
        let About { project_url, pipeline_id, job_id, job_name, runner } = about;
        let project_url = self.project(project_url);
        self.replace_in_text(pipeline_id, "1");
        self.replace_in_text(job_id, "1");
        About {
            project_url,
            pipeline_id: "1".to_owned(),
            job_id: "1".to_owned(),
            job_name: if job_name.is_empty() {
                String::new()
            } else {
                self.register(Kind::JobName, job_name)
            },
            runner: if runner.is_empty() {
                String::new()
            } else {
                self.register(Kind::Runner, runner)
            },
        }
    }

    /// Replaces a project's URL, and registers its host, its path and the path's parts.
    fn project(&mut self, url: &str) -> String {
        let other = self.of(Kind::Project, url);
        let (_, rest) = url.split_once("://").unwrap_or(("", url));
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let host = authority.rsplit('@').next().unwrap_or_default();
        if !host.is_empty() && host.parse::<IpAddr>().is_err() {
            self.register(Kind::Host, host);
        }
        let path = path.trim_end_matches('/');
        if !path.is_empty() {
            self.set(Kind::Path, path, &format!("/{other}"));
        }
        let (short, number) = (path.trim_start_matches('/'), other.clone());
        self.replace_in_text(short, &number);
        for part in short.split('/') {
            self.register(Kind::Name, part);
        }
        self.url(url)
    }

    fn spec(&mut self, spec: &LaunchSpec) -> LaunchSpec {
        let LaunchSpec {
            cluster,
            task_definition,
            platform_version,
            subnets,
            security_groups,
            assign_public_ip,
            capacity,
            container,
            environment,
            started_by: _,
            tags,
            enable_execute_command,
            propagate_tags,
            enable_ecs_managed_tags,
            additions,
            size,
            task_role,
            // It is never saved.
            service_environment: _,
        } = spec;
        LaunchSpec {
            cluster: self.cluster(cluster),
            task_definition: self.definition(task_definition),
            platform_version: platform_version.clone(),
            subnets: subnets.iter().map(|subnet| self.register(Kind::Resource, subnet)).collect(),
            security_groups: security_groups
                .iter()
                .map(|group| self.register(Kind::Resource, group))
                .collect(),
            assign_public_ip: *assign_public_ip,
            capacity: self.capacity(capacity),
            container: self.container(container),
            environment: environment
                .iter()
                .map(|(name, _)| (self.variable(name), LEFT_OUT.to_owned()))
                .collect(),
            started_by: valid_id(StartedBy::new("started-1")),
            tags: tags.iter().map(|(key, value)| self.tag(key, value)).collect(),
            enable_execute_command: *enable_execute_command,
            propagate_tags: *propagate_tags,
            enable_ecs_managed_tags: *enable_ecs_managed_tags,
            additions: additions.as_deref().map(|additions| Box::new(self.additions(additions))),
            size: *size,
            task_role: task_role.as_ref().map(|role| self.register(Kind::Resource, role)),
            service_environment: Vec::new(),
        }
    }

    fn additions(&mut self, additions: &Additions) -> Additions {
        let Additions { architecture, job, services } = additions;
        Additions {
            architecture: *architecture,
            job: job.as_ref().map(|JobContainer { image, user, shared }| JobContainer {
                image: self.image(image),
                user: user.as_ref().map(|user| self.text(user)),
                shared: self.shared_volume(shared),
            }),
            services: services
                .iter()
                .map(|ServiceContainer { name, image, command, aliases, port }| ServiceContainer {
                    name: name.clone(),
                    image: self.image(image),
                    command: command.as_deref().map(left_out),
                    aliases: aliases.iter().map(|alias| self.register(Kind::Host, alias)).collect(),
                    port: *port,
                })
                .collect(),
        }
    }

    fn image(&mut self, image: &ContainerImage) -> ContainerImage {
        let ContainerImage { name, credentials, entry_point } = image;
        ContainerImage {
            name: self.register(Kind::Image, name),
            credentials: credentials.as_ref().map(|arn| self.arn(arn)),
            entry_point: entry_point.as_deref().map(left_out),
        }
    }

    fn shared_volume(&mut self, volume: &SharedVolume) -> SharedVolume {
        let SharedVolume { run, builds, cache } = volume;
        SharedVolume {
            run: self.register(Kind::Path, run),
            builds: self.register(Kind::Path, builds),
            cache: self.register(Kind::Path, cache),
        }
    }

    fn capacity(&mut self, capacity: &Capacity) -> Capacity {
        match capacity {
            Capacity::ClusterDefault => Capacity::ClusterDefault,
            Capacity::LaunchType(name) => Capacity::LaunchType(self.text(name)),
            Capacity::Strategy(providers) => Capacity::Strategy(
                providers
                    .iter()
                    .map(|CapacityProvider { name, weight, base }| CapacityProvider {
                        name: self.provider(name),
                        weight: *weight,
                        base: *base,
                    })
                    .collect(),
            ),
        }
    }

    pub(super) fn container(&mut self, name: &str) -> String {
        if name == CONTAINER { name.to_owned() } else { self.register(Kind::Container, name) }
    }

    fn variable(&mut self, name: &str) -> String {
        if name == PUBLIC_KEY_VARIABLE {
            name.to_owned()
        } else {
            self.register(Kind::Variable, name)
        }
    }

    fn tag(&mut self, key: &str, value: &str) -> (String, String) {
        let is_own = TAG_PREFIXES.iter().any(|prefix| key.starts_with(prefix));
        let value = match self.find_registered(value) {
            Some(other) => other.to_owned(),
            None if value.contains("://") => self.url(value),
            None if key == task_tags::MANAGER_TAG => self.register(Kind::Manager, value),
            None if key == "gitlab:pipeline" || key == "gitlab:job" => "1".to_owned(),
            None => self.register(Kind::TagValue, value),
        };
        (if is_own { key.to_owned() } else { self.register(Kind::TagKey, key) }, value)
    }
}

/// Replaces the words of a command; their number stays.
fn left_out(words: &[String]) -> Vec<String> {
    words.iter().map(|_| LEFT_OUT.to_owned()).collect()
}
