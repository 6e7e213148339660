"""What is said to a chat teacher: templates in files, and the library that renders them."""
