variable "project" {
  description = "Project that runs the builds and pays for them."
  type        = string
}

variable "region" {
  description = "Region of buckets, jobs, workflow and image: one, or traffic between them is paid for."
  type        = string
  default     = "us-central1"
}

variable "prefix" {
  description = "What the names of the buckets begin with; bucket names are the world's, so choose one of your own."
  type        = string
}

variable "build" {
  description = "`name` of the build's configuration."
  type        = string
}

variable "config" {
  description = "The build's configuration, gs://BUCKET/build.yaml; output.path holds {date}, work names the work bucket."
  type        = string
}

variable "template" {
  description = "The template's container spec, as deploy/cloudbuild.yaml wrote it, gs://BUCKET/templates/counterpoise.json."
  type        = string
}

variable "image" {
  description = "The image of launcher and workers, as deploy/cloudbuild.yaml pushed it."
  type        = string
}

variable "input_buckets" {
  description = "Names of the buckets that hold sources, pool, tokenizer and configuration: read, never written."
  type        = list(string)
}

variable "schedule" {
  description = "When to rebuild, as cron, in UTC."
  type        = string
  default     = "0 2 * * *"
}

variable "deadline" {
  description = "When to look whether the rebuild is done, as cron, in UTC."
  type        = string
  default     = "0 14 * * *"
}

variable "deadline_hours" {
  description = "How many hours back a finished rebuild counts when it is looked for."
  type        = number
  default     = 13
}

variable "machine_type" {
  description = "Type of the workers: at least 3 GB a core."
  type        = string
  default     = "n2-standard-8"
}

variable "max_workers" {
  description = "Most machines at once; with the type it bounds what an hour can cost."
  type        = number
  default     = 50
}

variable "email" {
  description = "Who is told of a rebuild that is missing, late or failed."
  type        = string
}
