variable "name" {
  description = "The cluster's name. Task definitions, the log group and the manager's name begin with it."
  type        = string
  default     = "ci"

  validation {
    condition     = can(regex("^([a-z][a-z0-9-]{0,18})$", var.name))
    error_message = "It does not match [a-z][a-z0-9-]{0,18}."
  }
}

variable "transport" {
  description = "How the manager reaches the tasks."
  type        = string
  default     = "ssh"

  validation {
    condition     = contains(["ssh", "ecs-exec"], var.transport)
    error_message = "It is one of ssh, ecs-exec."
  }
}

variable "job_image" {
  description = "The image of ci-coordinator, built from deploy/images. For ssh, it has /usr/local/bin/ssh-entrypoint.sh."
  type        = string
}

variable "job_cpu" {
  description = "CPU units of a job's task. 1024 are a vCPU."
  type        = string
  default     = "1024"

  validation {
    condition     = contains(["256", "512", "1024", "2048", "4096", "8192", "16384"], var.job_cpu)
    error_message = "It is one of 256, 512, 1024, 2048, 4096, 8192, 16384."
  }
}

variable "job_memory" {
  description = "MiB of a job's task. Fargate admits certain pairs of CPU and memory."
  type        = string
  default     = "2048"

  validation {
    condition     = can(regex("^([0-9]+)$", var.job_memory))
    error_message = "It does not match [0-9]+."
  }
}

variable "job_architecture" {
  description = "The architecture of job_image."
  type        = string
  default     = "X86_64"

  validation {
    condition     = contains(["X86_64", "ARM64"], var.job_architecture)
    error_message = "It is one of X86_64, ARM64."
  }
}

variable "on_demand_weight" {
  description = "The share of tasks on FARGATE. 1 and 3 for Spot are three tasks of four on Spot."
  type        = number
  default     = 1
}

variable "spot_weight" {
  description = "The share of tasks on FARGATE_SPOT, which AWS may stop after two minutes of warning."
  type        = number
  default     = 0
}

variable "log_retention_days" {
  description = "How long CloudWatch keeps what containers log."
  type        = number
  default     = 30

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 180, 365], var.log_retention_days)
    error_message = "It is one of 1, 3, 5, 7, 14, 30, 60, 90, 180, 365."
  }
}

variable "vpc_id" {
  description = "An existing VPC, which needs subnet_ids. Empty makes one with two public subnets."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^((vpc-[0-9a-f]+)?)$", var.vpc_id))
    error_message = "It does not match (vpc-[0-9a-f]+)?."
  }
}

variable "subnet_ids" {
  description = "Subnets of vpc_id, best in several availability zones. The manager is in the first one."
  type        = list(string)
  default     = []
}

variable "vpc_cidr" {
  description = "The addresses of a new VPC."
  type        = string
  default     = "10.64.0.0/16"

  validation {
    condition     = can(regex("^([0-9.]+/[0-9]+)$", var.vpc_cidr))
    error_message = "It does not match [0-9.]+/[0-9]+."
  }
}

variable "subnet_cidrs" {
  description = "The addresses of its two subnets. A task takes one address."
  type        = list(string)
  default     = ["10.64.0.0/20", "10.64.16.0/20"]
}

variable "enable_public_ip" {
  description = "Whether tasks get public addresses. In a public subnet, they reach no registry without one. No port of them is open."
  type        = bool
  default     = true
}

variable "allowed_images" {
  description = "Patterns of images that jobs may name by image and services. Empty switches that off."
  type        = list(string)
  default     = []
}

variable "registry_host" {
  description = "A registry that needs the user and password of registry_secret_arn."
  type        = string
  default     = ""
}

variable "registry_secret_arn" {
  description = "The secret in Secrets Manager for registry_host."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^((arn:[a-z-]+:secretsmanager:.+)?)$", var.registry_secret_arn))
    error_message = "It does not match (arn:[a-z-]+:secretsmanager:.+)?."
  }
}

variable "mirror" {
  description = "The repository prefix of a pull-through cache in ECR, for images without a registry."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^([a-z0-9/._-]*)$", var.mirror))
    error_message = "It does not match [a-z0-9/._-]*."
  }
}

variable "manager" {
  description = "Whether the stack runs the manager, and where. With none, give yours manager_policies and manager_security_group."
  type        = string
  default     = "none"

  validation {
    condition     = contains(["none", "ec2", "fargate"], var.manager)
    error_message = "It is one of none, ec2, fargate."
  }
}

variable "gitlab_url" {
  description = "Where the runner is registered."
  type        = string
  default     = "https://gitlab.com"

  validation {
    condition     = can(regex("^(https?://[^\\s\"]+)$", var.gitlab_url))
    error_message = "It does not match https?://[^\\s\"]+."
  }
}

variable "runner_token_secret_arn" {
  description = "The secret whose text is the runner's authentication token (glrt-...)."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^((arn:[a-z-]+:secretsmanager:.+)?)$", var.runner_token_secret_arn))
    error_message = "It does not match (arn:[a-z-]+:secretsmanager:.+)?."
  }
}

variable "concurrent" {
  description = "How many jobs run at a time."
  type        = number
  default     = 20
}

variable "driver_package" {
  description = "With a manager on EC2, the driver's .rpm in S3."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^((s3://[a-z0-9.-]+/.+\\.rpm)?)$", var.driver_package))
    error_message = "It does not match (s3://[a-z0-9.-]+/.+\\.rpm)?."
  }
}

variable "manager_instance_type" {
  description = "With a manager on EC2, its size."
  type        = string
  default     = "t3.small"
}

variable "manager_ami_parameter" {
  description = "With a manager on EC2, its image, an Amazon Linux 2023."
  type        = string
  default     = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
}

variable "manager_image" {
  description = "With a manager on Fargate, its image, built from deploy/images/manager.Dockerfile."
  type        = string
  default     = ""
}

variable "manager_architecture" {
  description = "With a manager on Fargate, the architecture of manager_image."
  type        = string
  default     = "X86_64"

  validation {
    condition     = contains(["X86_64", "ARM64"], var.manager_architecture)
    error_message = "It is one of X86_64, ARM64."
  }
}
