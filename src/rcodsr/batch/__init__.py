"""From arguments to jobs, and from jobs to written files."""
