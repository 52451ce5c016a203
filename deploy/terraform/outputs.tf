output "fargate_toml" {
  description = "/etc/gitlab-runner/fargate.toml"
  value       = module.text.fargate_toml
}

output "config_toml" {
  description = "/etc/gitlab-runner/config.toml, to be completed with the runner's token"
  value       = module.text.config_toml
}

output "manager_policies" {
  description = "The policies for the role of a manager of your own"
  value       = local.manager_policies
}

output "manager_security_group" {
  description = "The security group of the manager, which tasks admit"
  value       = aws_security_group.manager_security_group.id
}

output "task_role" {
  description = "The role of scripts, for permissions that your jobs need"
  value       = aws_iam_role.task_role.arn
}
