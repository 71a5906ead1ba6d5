-- blobs/delete: gives the bytes back to the budget.  ARGV: name.  Returns 1 if it was there.
return delete_blob(ARGV[1]) and 1 or 0
