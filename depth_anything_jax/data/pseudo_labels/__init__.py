"""Labels stored apart from their images: encoding, shards, joining them to images."""
