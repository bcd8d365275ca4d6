"""What an evaluation writes: tables, pictures, published numbers, the HTML report."""
