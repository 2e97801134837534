# Corpora: every version of `latest.json` can be brought back, and nothing of a corpus is ever overwritten.
resource "google_storage_bucket" "corpus" {
  name                        = "${var.prefix}-corpus"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"

  versioning {
    enabled = true
  }

  lifecycle_rule {
    condition {
      days_since_noncurrent_time = 30
    }
    action {
      type = "Delete"
    }
  }
}

# Annotations live as long as the shards they describe; what single builds leave (schedules, receipts) goes after a month.
resource "google_storage_bucket" "work" {
  name                        = "${var.prefix}-work"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"

  soft_delete_policy {
    retention_duration_seconds = 0
  }

  lifecycle_rule {
    condition {
      age            = 30
      matches_prefix = ["work/builds/"]
    }
    action {
      type = "Delete"
    }
  }

  lifecycle_rule {
    condition {
      age            = 365
      matches_prefix = ["work/annotations/"]
    }
    action {
      type = "Delete"
    }
  }
}

# Staged jobs and shuffles.
resource "google_storage_bucket" "temp" {
  name                        = "${var.prefix}-temp"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"

  soft_delete_policy {
    retention_duration_seconds = 0
  }

  lifecycle_rule {
    condition {
      age = 7
    }
    action {
      type = "Delete"
    }
  }
}
