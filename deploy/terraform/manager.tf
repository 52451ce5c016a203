# What the manager may do, its configuration, and the manager itself on EC2 or on Fargate.

locals {
  on_ec2       = var.manager == "ec2"
  on_fargate   = var.manager == "fargate"
  runs_manager = local.on_ec2 || local.on_fargate
  manager_policies = concat(
    [aws_iam_policy.manager_policy.arn, aws_iam_policy.manager_doctor_policy.arn],
    aws_iam_policy.manager_ecs_exec_policy[*].arn,
    aws_iam_policy.manager_images_policy[*].arn,
  )
  parameters = join(":", [
    "arn", data.aws_partition.current.partition, "ssm", data.aws_region.current.id,
    data.aws_caller_identity.current.account_id, "parameter/fargate/${var.name}/*",
  ])
}

resource "aws_iam_policy" "manager_policy" {
  name_prefix = "${var.name}-manager-"
  description = "Launches and stops tasks of CI jobs in the cluster ${var.name}"
  policy      = module.text.policies["manager"]
}

# For fargate doctor and fargate init. All of it is read-only, and jobs do not need it.
resource "aws_iam_policy" "manager_doctor_policy" {
  name_prefix = "${var.name}-manager-doctor-"
  description = "Examines what jobs in the cluster ${var.name} need"
  policy      = module.text.policies["manager-doctor"]
}

resource "aws_iam_policy" "manager_ecs_exec_policy" {
  count       = local.by_ecs_exec ? 1 : 0
  name_prefix = "${var.name}-manager-ecs-exec-"
  description = "Runs scripts in tasks of the cluster ${var.name}"
  policy      = module.text.policies["manager-ecs-exec"]
}

resource "aws_iam_policy" "manager_images_policy" {
  count       = local.has_images ? 1 : 0
  name_prefix = "${var.name}-manager-images-"
  description = "Registers task definitions for images of jobs in the cluster ${var.name}"
  policy      = module.text.policies["manager-images"]
}

resource "aws_ssm_parameter" "fargate_toml" {
  name        = "/fargate/${var.name}/fargate.toml"
  type        = "String"
  description = "/etc/gitlab-runner/fargate.toml"
  value       = module.text.fargate_toml
}

resource "aws_ssm_parameter" "config_toml" {
  name        = "/fargate/${var.name}/config.toml"
  type        = "String"
  description = "/etc/gitlab-runner/config.toml, without the runner's token"
  value       = module.text.config_toml
}

resource "aws_iam_role" "manager_role" {
  count       = local.runs_manager ? 1 : 0
  name_prefix = "${var.name}-manager-"
  description = "The runner manager of the cluster ${var.name}"
  assume_role_policy = local.on_fargate ? module.text.trust : jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "ec2.${data.aws_partition.current.dns_suffix}" }
      Action    = "sts:AssumeRole"
    }]
  })
}

resource "aws_iam_role_policy_attachment" "manager_role" {
  count      = local.runs_manager ? 2 + (local.by_ecs_exec ? 1 : 0) + (local.has_images ? 1 : 0) : 0
  role       = aws_iam_role.manager_role[0].name
  policy_arn = local.manager_policies[count.index]
}

# A shell by Session Manager: the instance has no SSH key, and no port is open.
resource "aws_iam_role_policy_attachment" "manager_shell" {
  count      = local.on_ec2 ? 1 : 0
  role       = aws_iam_role.manager_role[0].name
  policy_arn = "arn:${data.aws_partition.current.partition}:iam::aws:policy/AmazonSSMManagedInstanceCore"
}

resource "aws_iam_role_policy" "manager_instance_policy" {
  count = local.on_ec2 ? 1 : 0
  name  = "installation"
  role  = aws_iam_role.manager_role[0].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "ReadTheRunnersToken"
        Effect   = "Allow"
        Action   = "secretsmanager:GetSecretValue"
        Resource = var.runner_token_secret_arn
      },
      {
        Sid      = "ReadTheConfiguration"
        Effect   = "Allow"
        Action   = "ssm:GetParameter"
        Resource = local.parameters
      },
      {
        Sid      = "FetchTheDriver"
        Effect   = "Allow"
        Action   = "s3:GetObject"
        Resource = replace(var.driver_package, "s3://", "arn:${data.aws_partition.current.partition}:s3:::")
      },
    ]
  })
}

resource "aws_iam_instance_profile" "manager_instance_profile" {
  count       = local.on_ec2 ? 1 : 0
  name_prefix = "${var.name}-manager-"
  role        = aws_iam_role.manager_role[0].name
}

data "aws_ssm_parameter" "manager_ami" {
  count = local.on_ec2 ? 1 : 0
  name  = var.manager_ami_parameter
}

resource "aws_instance" "manager_instance" {
  count                  = local.on_ec2 ? 1 : 0
  ami                    = data.aws_ssm_parameter.manager_ami[0].value
  instance_type          = var.manager_instance_type
  iam_instance_profile   = aws_iam_instance_profile.manager_instance_profile[0].name
  subnet_id              = local.subnet_ids[0]
  vpc_security_group_ids = [aws_security_group.manager_security_group.id]
  # Its log is /var/log/cloud-init-output.log.
  user_data  = module.text.user_data
  tags       = { Name = "${var.name}-manager" }
  depends_on = [aws_iam_role_policy.manager_instance_policy, aws_ssm_parameter.fargate_toml, aws_ssm_parameter.config_toml]

  metadata_options {
    http_tokens = "required"
  }

  root_block_device {
    encrypted   = true
    volume_size = 20
    volume_type = "gp3"
  }

  # A newer image of Amazon Linux must not replace the manager and its jobs.
  lifecycle {
    ignore_changes = [ami]
  }
}

resource "aws_iam_role" "manager_execution_role" {
  count              = local.on_fargate ? 1 : 0
  name_prefix        = "${var.name}-manager-execution-"
  description        = "ECS itself, for the runner manager of the cluster ${var.name}"
  assume_role_policy = module.text.trust
}

resource "aws_iam_role_policy_attachment" "manager_execution_role" {
  count      = local.on_fargate ? 1 : 0
  role       = aws_iam_role.manager_execution_role[0].name
  policy_arn = "arn:${data.aws_partition.current.partition}:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy"
}

resource "aws_iam_role_policy" "manager_execution_role" {
  count = local.on_fargate ? 1 : 0
  name  = "configuration"
  role  = aws_iam_role.manager_execution_role[0].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "ReadTheRunnersToken"
        Effect   = "Allow"
        Action   = "secretsmanager:GetSecretValue"
        Resource = var.runner_token_secret_arn
      },
      {
        Sid      = "ReadTheConfiguration"
        Effect   = "Allow"
        Action   = "ssm:GetParameters"
        Resource = local.parameters
      },
    ]
  })
}

resource "aws_cloudwatch_log_group" "manager_log_group" {
  count             = local.on_fargate ? 1 : 0
  name              = "/ecs/manager_${var.name}"
  retention_in_days = var.log_retention_days
}

resource "aws_ecs_task_definition" "manager_task_definition" {
  count = local.on_fargate ? 1 : 0
  # Not name-…: jobs may choose such definitions.
  family                   = "manager_${var.name}"
  network_mode             = "awsvpc"
  requires_compatibilities = ["FARGATE"]
  cpu                      = "512"
  memory                   = "1024"
  execution_role_arn       = aws_iam_role.manager_execution_role[0].arn
  task_role_arn            = aws_iam_role.manager_role[0].arn

  runtime_platform {
    cpu_architecture        = var.manager_architecture
    operating_system_family = "LINUX"
  }

  container_definitions = jsonencode([{
    name      = "manager"
    image     = var.manager_image
    essential = true
    # The image's stop signal lets the runner wait for its jobs. Fargate admits two minutes.
    stopTimeout = 120
    secrets = [
      { name = "FARGATE_TOML", valueFrom = aws_ssm_parameter.fargate_toml.arn },
      { name = "CONFIG_TOML", valueFrom = aws_ssm_parameter.config_toml.arn },
      { name = "RUNNER_TOKEN", valueFrom = var.runner_token_secret_arn },
    ]
    logConfiguration = {
      logDriver = "awslogs"
      options = {
        "awslogs-group"         = aws_cloudwatch_log_group.manager_log_group[0].name
        "awslogs-region"        = data.aws_region.current.id
        "awslogs-stream-prefix" = "manager"
      }
    }
  }])
}

resource "aws_ecs_service" "manager_service" {
  count           = local.on_fargate ? 1 : 0
  name            = "${var.name}-manager"
  cluster         = aws_ecs_cluster.cluster.id
  task_definition = aws_ecs_task_definition.manager_task_definition[0].arn
  launch_type     = "FARGATE"
  desired_count   = 1
  # Two managers of one name would take each other's tasks for orphans.
  deployment_minimum_healthy_percent = 0
  deployment_maximum_percent         = 100
  depends_on                         = [aws_iam_role_policy.manager_execution_role]

  network_configuration {
    assign_public_ip = var.enable_public_ip
    security_groups  = [aws_security_group.manager_security_group.id]
    subnets          = local.subnet_ids
  }
}
