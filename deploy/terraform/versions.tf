# All that the driver needs on AWS: docs/infrastructure.md says how to use it. deploy/cloudformation makes the same.
terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.40"
    }
  }
}
