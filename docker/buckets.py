"""Creates the S3 buckets named on the command line, where they do not exist."""

from __future__ import annotations

import sys

import boto3
from botocore.exceptions import ClientError

THERE = {"BucketAlreadyExists", "BucketAlreadyOwnedByYou"}


def main() -> None:
    """Create each; an existing one is fine."""
    s3 = boto3.client("s3")
    for name in sys.argv[1:]:
        try:
            s3.create_bucket(Bucket=name)
        except ClientError as error:
            if error.response["Error"]["Code"] not in THERE:
                raise


if __name__ == "__main__":
    main()
