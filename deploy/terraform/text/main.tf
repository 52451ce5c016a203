# The texts of the parent module: policies, container definitions, configuration. It has no resources and no provider, so
# scripts/infrastructure applies it as it is, and compares what it says with CloudFormation's template.

terraform {
  required_version = ">= 1.5"
}

locals {
  # deploy/ has the policies and the task definitions, with example names. They are replaced one kind after the other.
  directory = "${path.module}/../.."
  transport = var.transport == "ssh" ? "ssh" : "ecs-exec"

  policy_examples = {
    for name in ["manager", "manager-doctor", "manager-ecs-exec", "manager-images", "task-ecs-exec", "execution-images"] :
    name => file("${local.directory}/iam/${name}.json")
  }
  policies_with_roles = {
    for name, text in local.policy_examples : name => replace(replace(text,
      "arn:aws:iam::111122223333:role/ci-task", var.task_role_arn),
      "arn:aws:iam::111122223333:role/ci-execution", var.execution_role_arn
    )
  }
  policies_with_registries = {
    for name, text in local.policies_with_roles : name => replace(replace(text,
      "arn:aws:secretsmanager:eu-central-1:111122223333:secret:registry-*", var.registry_secret_arn),
      ":repository/docker-hub/", ":repository/${var.mirror}/"
    )
  }
  policies_with_names = {
    for name, text in local.policies_with_registries : name => replace(replace(replace(replace(replace(replace(text,
      ":cluster/ci\"", ":cluster/${var.name}\""),
      ":task/ci/", ":task/${var.name}/"),
      ":repository/ci-", ":repository/${var.name}-"),
      ":role/ci-", ":role/${var.role_prefix}"),
      ":task-definition/ci-", ":task-definition/${var.name}-"),
      ":/ecs/ci-job:", ":/ecs/${var.name}-job:"
    )
  }
  policies = {
    for name, text in local.policies_with_names : name => jsondecode(replace(replace(replace(text,
      "arn:aws:", "arn:${var.partition}:"),
      "eu-central-1", var.region),
      "111122223333", var.account_id
    ))
  }
  # The roles need it before their names are known.
  trust = replace(replace(replace(file("${local.directory}/iam/task-trust.json"),
    "arn:aws:", "arn:${var.partition}:"),
    "eu-central-1", var.region),
    "111122223333", var.account_id
  )
  # The statements of execution-images are for a registry and for a mirror, which there may not be.
  execution_images = {
    for statement in local.policies["execution-images"].Statement :
    { ReadCredentialsForRegistries = "execution-registry", FillThePullThroughCache = "execution-mirror" }[statement.Sid] =>
    merge(local.policies["execution-images"], { Statement = [statement] })
  }
  has_registry = var.registry_secret_arn != ""
  has_mirror   = var.mirror != ""

  definition = jsondecode(file("${local.directory}/task-definition-${local.transport}.json"))
  family     = var.transport == "ssh" ? "${var.name}-job" : "${var.name}-job-exec"
  containers = [
    for container in local.definition.containerDefinitions : merge(container, { image = var.job_image }, {
      for key, configuration in container : key => merge(configuration, {
        options = merge(configuration.options, {
          "awslogs-group"  = "/ecs/${var.name}-job"
          "awslogs-region" = var.region
        })
      }) if key == "logConfiguration"
    })
  ]

  fargate_toml = templatefile("${path.module}/fargate.toml.tftpl", {
    name              = var.name
    region            = var.region
    transport         = var.transport
    subnet_ids        = var.subnet_ids
    security_group_id = var.security_group_id
    family            = local.family
    enable_public_ip  = var.enable_public_ip
    allowed_images    = var.allowed_images
    mirror            = local.has_mirror ? "${var.account_id}.dkr.ecr.${var.region}.${var.dns_suffix}/${var.mirror}" : ""
    registry          = local.has_registry ? { (var.registry_host) = var.registry_secret_arn } : {}
  })
  config_toml = templatefile("${path.module}/config.toml.tftpl", {
    name       = var.name
    url        = var.gitlab_url
    concurrent = var.concurrent
  })
  user_data = templatefile("${path.module}/user-data.sh.tftpl", {
    name             = var.name
    region           = var.region
    driver_package   = var.driver_package
    token_secret_arn = var.runner_token_secret_arn
  })
}
