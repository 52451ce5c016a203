output "policies" {
  description = "The policies of deploy/iam with the installation's names, as JSON."
  value       = { for name, policy in merge(local.policies, local.execution_images) : name => jsonencode(policy) }
}

output "trust" {
  description = "The trust policy of roles of tasks."
  value       = local.trust
}

output "definition" {
  description = "The task definition of deploy/ for the transport."
  value = {
    family        = local.family
    network_mode  = local.definition.networkMode
    compatibility = local.definition.requiresCompatibilities
    containers    = jsonencode(local.containers)
  }
}

output "fargate_toml" {
  description = "/etc/gitlab-runner/fargate.toml"
  value       = local.fargate_toml
}

output "config_toml" {
  description = "/etc/gitlab-runner/config.toml, without the runner's token."
  value       = local.config_toml
}

output "user_data" {
  description = "What a manager on EC2 does at its first start."
  value       = local.user_data
}
