"""What tables share: models and their data, measurements that are kept, Markdown."""
