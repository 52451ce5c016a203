variable "partition" {
  description = "AWS's partition: aws, aws-cn, aws-us-gov."
  type        = string
}

variable "dns_suffix" {
  description = "The partition's domain."
  type        = string
}

variable "region" {
  description = "The region."
  type        = string
}

variable "account_id" {
  description = "The account."
  type        = string
}

variable "name" {
  description = "The cluster's name."
  type        = string
}

variable "transport" {
  description = "ssh or ecs-exec."
  type        = string
}

variable "job_image" {
  description = "The image of ci-coordinator."
  type        = string
}

variable "task_role_arn" {
  description = "The role of scripts."
  type        = string
}

variable "execution_role_arn" {
  description = "The role of ECS itself."
  type        = string
}

variable "role_prefix" {
  description = "What the names of the roles begin with."
  type        = string
}

variable "subnet_ids" {
  description = "The tasks' subnets."
  type        = list(string)
}

variable "security_group_id" {
  description = "The tasks' security group."
  type        = string
}

variable "enable_public_ip" {
  description = "Whether tasks get public addresses."
  type        = bool
}

variable "allowed_images" {
  description = "Patterns of images that jobs may name."
  type        = list(string)
}

variable "registry_host" {
  description = "A registry that needs a password."
  type        = string
}

variable "registry_secret_arn" {
  description = "The secret of that registry."
  type        = string
}

variable "mirror" {
  description = "The repository prefix of a pull-through cache."
  type        = string
}

variable "gitlab_url" {
  description = "Where the runner is registered."
  type        = string
}

variable "concurrent" {
  description = "How many jobs run at a time."
  type        = number
}

variable "driver_package" {
  description = "The driver's .rpm in S3."
  type        = string
}

variable "runner_token_secret_arn" {
  description = "The secret with the runner's token."
  type        = string
}
