# What jobs run in: cluster, roles, task definition, log.

data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}
data "aws_region" "current" {}

locals {
  by_ssh      = var.transport == "ssh"
  by_ecs_exec = var.transport == "ecs-exec"
  has_images  = length(var.allowed_images) > 0
}

module "text" {
  source = "./text"

  partition               = data.aws_partition.current.partition
  dns_suffix              = data.aws_partition.current.dns_suffix
  region                  = data.aws_region.current.id
  account_id              = data.aws_caller_identity.current.account_id
  name                    = var.name
  transport               = var.transport
  job_image               = var.job_image
  task_role_arn           = aws_iam_role.task_role.arn
  execution_role_arn      = aws_iam_role.execution_role.arn
  role_prefix             = "${var.name}-"
  subnet_ids              = local.subnet_ids
  security_group_id       = aws_security_group.task_security_group.id
  enable_public_ip        = var.enable_public_ip
  allowed_images          = var.allowed_images
  registry_host           = var.registry_host
  registry_secret_arn     = var.registry_secret_arn
  mirror                  = var.mirror
  gitlab_url              = var.gitlab_url
  concurrent              = var.concurrent
  driver_package          = var.driver_package
  runner_token_secret_arn = var.runner_token_secret_arn
}

resource "aws_ecs_cluster" "cluster" {
  name = var.name

  # Logging of sessions needs script(1) in the image, and delays each session's end.
  configuration {
    execute_command_configuration {
      logging = "NONE"
    }
  }

  lifecycle {
    precondition {
      condition     = var.vpc_id == "" || length(var.subnet_ids) > 0
      error_message = "vpc_id needs subnet_ids."
    }
    precondition {
      condition     = var.vpc_id != "" || var.enable_public_ip
      error_message = "The subnets of the new VPC are public, so enable_public_ip must be true."
    }
    precondition {
      condition     = var.manager != "ec2" || (var.runner_token_secret_arn != "" && var.driver_package != "")
      error_message = "A manager on EC2 needs runner_token_secret_arn and driver_package."
    }
    precondition {
      condition     = var.manager != "fargate" || (var.runner_token_secret_arn != "" && var.manager_image != "")
      error_message = "A manager on Fargate needs runner_token_secret_arn and manager_image."
    }
  }
}

# RunTask without one answers "No Container Instances were found in your cluster".
resource "aws_ecs_cluster_capacity_providers" "cluster" {
  cluster_name       = aws_ecs_cluster.cluster.name
  capacity_providers = ["FARGATE", "FARGATE_SPOT"]

  default_capacity_provider_strategy {
    capacity_provider = "FARGATE"
    weight            = var.on_demand_weight
  }
  default_capacity_provider_strategy {
    capacity_provider = "FARGATE_SPOT"
    weight            = var.spot_weight
  }
}

resource "aws_cloudwatch_log_group" "log_group" {
  name              = "/ecs/${var.name}-job"
  retention_in_days = var.log_retention_days
}

# Scripts run with it.
resource "aws_iam_role" "task_role" {
  name_prefix        = "${var.name}-task-"
  description        = "Scripts of CI jobs in the cluster ${var.name}"
  assume_role_policy = module.text.trust
}

resource "aws_iam_role_policy" "task_ecs_exec_policy" {
  count  = local.by_ecs_exec ? 1 : 0
  name   = "ecs-exec"
  role   = aws_iam_role.task_role.id
  policy = module.text.policies["task-ecs-exec"]
}

resource "aws_iam_role" "execution_role" {
  name_prefix        = "${var.name}-execution-"
  description        = "ECS itself, for CI jobs in the cluster ${var.name} - it pulls images and writes logs"
  assume_role_policy = module.text.trust
}

resource "aws_iam_role_policy_attachment" "execution_role" {
  role       = aws_iam_role.execution_role.name
  policy_arn = "arn:${data.aws_partition.current.partition}:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy"
}

resource "aws_iam_role_policy" "execution_registry_policy" {
  count  = var.registry_secret_arn != "" ? 1 : 0
  name   = "registry"
  role   = aws_iam_role.execution_role.id
  policy = module.text.policies["execution-registry"]
}

resource "aws_iam_role_policy" "execution_mirror_policy" {
  count  = var.mirror != "" ? 1 : 0
  name   = "mirror"
  role   = aws_iam_role.execution_role.id
  policy = module.text.policies["execution-mirror"]
}

resource "aws_ecs_task_definition" "task_definition" {
  family                   = module.text.definition.family
  network_mode             = module.text.definition.network_mode
  requires_compatibilities = module.text.definition.compatibility
  cpu                      = var.job_cpu
  memory                   = var.job_memory
  execution_role_arn       = aws_iam_role.execution_role.arn
  task_role_arn            = aws_iam_role.task_role.arn
  container_definitions    = module.text.definition.containers
  depends_on               = [aws_cloudwatch_log_group.log_group]

  runtime_platform {
    cpu_architecture        = var.job_architecture
    operating_system_family = "LINUX"
  }
}
