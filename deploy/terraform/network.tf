# The network. Without vpc_id: two public subnets, as NAT gateways cost more than small installations.

data "aws_availability_zones" "available" {
  state = "available"
}

locals {
  makes_vpc  = var.vpc_id == ""
  vpc_id     = local.makes_vpc ? one(aws_vpc.vpc[*].id) : var.vpc_id
  subnet_ids = local.makes_vpc ? aws_subnet.subnet[*].id : var.subnet_ids
}

resource "aws_vpc" "vpc" {
  count                = local.makes_vpc ? 1 : 0
  cidr_block           = var.vpc_cidr
  enable_dns_support   = true
  enable_dns_hostnames = true
  tags                 = { Name = var.name }
}

resource "aws_internet_gateway" "internet_gateway" {
  count  = local.makes_vpc ? 1 : 0
  vpc_id = aws_vpc.vpc[0].id
  tags   = { Name = var.name }
}

resource "aws_route_table" "route_table" {
  count  = local.makes_vpc ? 1 : 0
  vpc_id = aws_vpc.vpc[0].id
  tags   = { Name = var.name }
}

resource "aws_route" "default_route" {
  count                  = local.makes_vpc ? 1 : 0
  route_table_id         = aws_route_table.route_table[0].id
  destination_cidr_block = "0.0.0.0/0"
  gateway_id             = aws_internet_gateway.internet_gateway[0].id
}

resource "aws_subnet" "subnet" {
  count                   = local.makes_vpc ? length(var.subnet_cidrs) : 0
  vpc_id                  = aws_vpc.vpc[0].id
  availability_zone       = data.aws_availability_zones.available.names[count.index]
  cidr_block              = var.subnet_cidrs[count.index]
  map_public_ip_on_launch = true
  tags                    = { Name = "${var.name}-${count.index}" }
}

resource "aws_route_table_association" "subnet_routes" {
  count          = local.makes_vpc ? length(var.subnet_cidrs) : 0
  subnet_id      = aws_subnet.subnet[count.index].id
  route_table_id = aws_route_table.route_table[0].id
}

resource "aws_security_group" "manager_security_group" {
  name_prefix = "${var.name}-manager-"
  description = "The runner manager. No port is open."
  vpc_id      = local.vpc_id
  tags        = { Name = "${var.name}-manager" }

  dynamic "egress" {
    for_each = {
      443 = "GitLab and AWS"
      80  = "GitLab without TLS and package archives"
      22  = "SSH servers of tasks"
    }
    content {
      protocol    = "tcp"
      from_port   = egress.key
      to_port     = egress.key
      cidr_blocks = ["0.0.0.0/0"]
      description = egress.value
    }
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_security_group" "task_security_group" {
  name_prefix = "${var.name}-task-"
  description = "Tasks of CI jobs. With SSH, one port is open, to the manager only."
  vpc_id      = local.vpc_id
  tags        = { Name = "${var.name}-task" }

  dynamic "ingress" {
    for_each = local.by_ssh ? [22] : []
    content {
      protocol        = "tcp"
      from_port       = ingress.value
      to_port         = ingress.value
      security_groups = [aws_security_group.manager_security_group.id]
      description     = "the runner manager"
    }
  }

  egress {
    protocol    = "-1"
    from_port   = 0
    to_port     = 0
    cidr_blocks = ["0.0.0.0/0"]
    description = "what jobs call"
  }

  lifecycle {
    create_before_destroy = true
  }
}
